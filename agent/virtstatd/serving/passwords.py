"""Passwords as they may stand in a configuration: hashed, by scrypt or bcrypt."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import os
import re
from typing import Final

from virtstatd.runtime.installing import installing


LOG_N: Final = 14
R: Final = 8
P: Final = 5
MEMORY_BYTES: Final = 64 << 20
"""What one scrypt may take; 128 * N * r is what it does take."""

BCRYPT_COST: Final = 15
BCRYPT_BYTES: Final = 72
"""What bcrypt looks at; all of its implementations but this one's leave the rest out silently."""

_SCRYPT = re.compile(
    r"\$scrypt\$ln=(?P<n>\d{1,2}),r=(?P<r>\d{1,2}),p=(?P<p>\d{1,2})"
    r"\$(?P<salt>[A-Za-z0-9+/]{11,64})\$(?P<key>[A-Za-z0-9+/]{22,86})"
)
_BCRYPT = re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}")


def made(password: str) -> str:
    """Return the hash of a password, by scrypt with a new salt."""
    salt = os.urandom(16)
    key = hashlib.scrypt(
        password.encode(), salt=salt, n=1 << LOG_N, r=R, p=P, maxmem=MEMORY_BYTES + (1 << 20)
    )
    return f"$scrypt$ln={LOG_N},r={R},p={P}${_text(salt)}${_text(key)}"


def fault_of(hashed: str) -> str:
    """Return what is wrong with a hash, nothing where it can be checked."""
    if found := _SCRYPT.fullmatch(hashed):
        n, r, p = int(found["n"]), int(found["r"]), int(found["p"])
        if n < 1 or r < 1 or not 1 <= p <= 16 or 128 * (1 << n) * r > MEMORY_BYTES:  # noqa: PLR2004
            return "takes more memory or time than a login may"
        return ""
    if found := _BCRYPT.fullmatch(hashed):
        if not 4 <= int(found["cost"]) <= BCRYPT_COST:  # noqa: PLR2004 - bcrypt's least
            return f"must have a cost from 4 to {BCRYPT_COST}"
        if importlib.util.find_spec("bcrypt") is None:
            return f"is of bcrypt, which is not installed; {installing('virtstatd[web]')}"
        return ""
    return "must be a hash of bcrypt or scrypt; `virtstatd password` makes one"


def matches(password: str, hashed: str) -> bool:
    """Return whether a password is that of a hash without fault; this takes a tenth of a second."""
    found = _SCRYPT.fullmatch(hashed)
    if found is None:
        import bcrypt

        return bcrypt.checkpw(password.encode()[:BCRYPT_BYTES], hashed.encode())
    key = _bytes(found["key"])
    made_anew = hashlib.scrypt(
        password.encode(),
        salt=_bytes(found["salt"]),
        n=1 << int(found["n"]),
        r=int(found["r"]),
        p=int(found["p"]),
        maxmem=MEMORY_BYTES + (1 << 20),
        dklen=len(key),
    )
    return hmac.compare_digest(made_anew, key)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
