"""Files that options name: secrets, certificates and what systemd hands over; never their text."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from virtstatd.errors import StartError


CREDENTIAL = "credential:"
SECRET_BYTES = 4096

_FILE = f"a path, or `{CREDENTIAL}` and the name of a systemd credential"
_NAME = re.compile(r"[A-Za-z0-9_.@-]+")

Tls = Annotated[bool, Meta(description="Encrypt the connection, and check the server's name.")]
CaFile = Annotated[
    str, Meta(description="File of the authorities to trust instead of the system's.")
]
CertificateFile = Annotated[str, Meta(description=f"File of the client certificate: {_FILE}.")]
KeyFile = Annotated[str, Meta(description=f"File of the client certificate's key: {_FILE}.")]
Username = Annotated[str, Meta(description="User name, where the server wants one.")]
PasswordFile = Annotated[str, Meta(description=f"File of the user's password: {_FILE}.")]


def check_files(
    *, tls: bool, ca_file: str = "", certificate_file: str = "", key_file: str = ""
) -> None:
    """Raise ValueError when the options of a connection do not go together."""
    for option, given in (
        ("ca_file", ca_file),
        ("certificate_file", certificate_file),
        ("key_file", key_file),
    ):
        if given and not tls:
            raise ValueError(f"{option}: needs tls = true")
    if key_file and not certificate_file:
        raise ValueError("key_file: needs certificate_file")


def check_pair(username: str, password_file: str) -> None:
    """Raise ValueError when there is one of the two without the other."""
    if bool(username) != bool(password_file):
        raise ValueError("password_file: username and password_file go together")


def path_of(name: str) -> Path:
    """Return the path that an option means; raise StartError when systemd passed no credential."""
    if not name.startswith(CREDENTIAL):
        return Path(name)
    credential = name.removeprefix(CREDENTIAL)
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory or not _NAME.fullmatch(credential) or credential in (".", ".."):
        raise StartError(f"there is no {name}; add LoadCredential= for it to the unit")
    return Path(directory) / credential


def secret(name: str) -> str:
    """Return the one line that a file holds, nothing for no file; StartError names the file."""
    if not name:
        return ""
    path = path_of(name)
    try:
        with path.open("rb") as file:
            text = file.read(SECRET_BYTES + 1).decode().strip()
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "is not text"
        raise StartError(f"cannot read {path}: {cause}") from error
    if not text or not text.isprintable() or len(text) > SECRET_BYTES:
        raise StartError(f"{path} must hold one line of text")
    return text


def tls_context(
    *, tls: bool, ca_file: str = "", certificate_file: str = "", key_file: str = ""
) -> ssl.SSLContext | None:
    """Return what checks the server and shows our certificate; StartError names a bad file."""
    if not tls:
        return None
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as error:
        raise StartError(f"ca_file: cannot use {ca_file}: {error}") from error
    if certificate_file:
        certificate = path_of(certificate_file)
        key = path_of(key_file) if key_file else None
        try:
            # without the empty password OpenSSL would ask for one at the terminal
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            raise StartError(f"certificate_file: cannot use {certificate}: {error}") from error
    return context
