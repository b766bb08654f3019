"""The options of sinks with a URL: destination, credentials, TLS and headers."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from msgspec import Meta

from virtstatd.sending.secrets import FILE, Login, check_secret
from virtstatd.sending.tls import TlsFiles


_CONTROL = re.compile(r"[^\x20-\x7e]")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, kw_only=True)
class Access(Login, TlsFiles):
    """Destination and credentials of a sink; raises ValueError for options that do not fit."""

    url: str
    token_file: Annotated[str, Meta(description=f"File of the token: {FILE}.")] = ""
    headers: Annotated[
        dict[str, str],
        Meta(description="Headers on every request, such as a tenant's; no secrets."),
    ] = field(default_factory=dict)

    scheme: ClassVar[str] = "Bearer"
    """The authentication scheme of a token."""

    def __post_init__(self) -> None:
        check_url(self.url, ("http", "https"))
        self.check_login()
        if self.token_file and self.username:
            raise ValueError("token_file: cannot go together with username")
        self.check_tls(tls=self.encrypted)
        for header, value in self.headers.items():
            if not _HEADER.fullmatch(header) or _CONTROL.search(value):
                raise ValueError("headers: a name or a value is not fit for HTTP")
            if header.lower() in ("authorization", "cookie"):
                raise ValueError("headers: secrets belong into token_file or password_file")

    def check_here(self) -> None:
        """Raise StartError when the secret or a file of TLS cannot be used."""
        check_secret("token_file", self.token_file)
        self.check_password()
        self.tls_context(tls=self.encrypted)

    @property
    def secret_file(self) -> str:
        """The file of the token or password, empty for none."""
        return self.token_file or self.password_file

    @property
    def encrypted(self) -> bool:
        """Whether the URL asks for TLS."""
        return self.url.startswith("https:")

    def authorization(self, text: str) -> dict[str, str]:
        """Return the Authorization header for a secret, none without one."""
        if self.token_file:
            return {"Authorization": f"{self.scheme} {text}"}
        if self.username:
            pair = b64encode(f"{self.username}:{text}".encode())
            return {"Authorization": f"Basic {pair.decode()}"}
        return {}


def check_url(url: str, schemes: Sequence[str]) -> None:
    """Raise ValueError unless a URL has one of these schemes and no password in it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname and parts.port != 0
    except ValueError:
        host = False
    if not host or parts.scheme not in schemes or _CONTROL.search(url) or " " in url:
        raise ValueError(f"url: must begin with {' or '.join(f'{each}://' for each in schemes)}")
    if "@" in parts.netloc:
        raise ValueError("url: a user or password belongs into username and password_file")
