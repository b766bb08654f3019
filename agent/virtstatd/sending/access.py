"""The options of sinks with a URL: destination, credentials, TLS, proxy and headers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from msgspec import Meta

from virtstatd.sending.paths import FILE
from virtstatd.sending.secrets import Login, check_secret
from virtstatd.sending.tls import TlsFiles


_CONTROL = re.compile(r"[^\x20-\x7e]")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET = re.compile("authorization|cookie|key|token|secret|passw", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Access(Login, TlsFiles):
    """Destination and credentials of a sink; raises ValueError for options that do not fit."""

    url: str
    token_file: Annotated[str, Meta(description=f"File of the token: {FILE}.")] = ""
    headers: Annotated[
        dict[str, str],
        Meta(description="Headers on every request, such as a tenant's; no secrets."),
    ] = field(default_factory=dict)
    header_files: Annotated[
        dict[str, str],
        Meta(
            description=f"Headers with a secret, such as an API key, by the file of each: {FILE}."
        ),
    ] = field(default_factory=dict)
    oauth2_url: Annotated[
        str,
        Meta(description="URL that issues tokens to clients (OAuth 2.0 client credentials)."),
    ] = ""
    oauth2_client: Annotated[str, Meta(description="Id of the client at `oauth2_url`.")] = ""
    oauth2_secret_file: Annotated[
        str, Meta(description=f"File of the client's secret: {FILE}.")
    ] = ""
    oauth2_scopes: Annotated[
        tuple[str, ...], Meta(description="Scopes to request, as the issuer names them.")
    ] = ()
    oauth2_parameters: Annotated[
        dict[str, str],
        Meta(description="More parameters for the issuer, such as `audience`; no secrets."),
    ] = field(default_factory=dict)
    proxy_url: Annotated[
        str, Meta(description="HTTP proxy on the way, as `http://host:port`; empty is none.")
    ] = ""
    proxy_username: Annotated[str, Meta(description="User name at the proxy.")] = ""
    proxy_password_file: Annotated[
        str, Meta(description=f"File of the password at the proxy: {FILE}.")
    ] = ""

    scheme: ClassVar[str] = "Bearer"
    """The authentication scheme of a token."""

    def __post_init__(self) -> None:
        check_url("url", self.url, ("http", "https"))
        self.check_login()
        if sum(map(bool, (self.token_file, self.username, self.oauth2_url))) > 1:
            raise ValueError("token_file: only one of token_file, username and oauth2_url is used")
        self.check_tls(tls=self.encrypted or self.issued_encrypted)
        for header, value in {**self.headers, **self.header_files}.items():
            if not _HEADER.fullmatch(header) or _CONTROL.search(value):
                raise ValueError("headers: a name or a value is not fit for HTTP")
        if secret := next(filter(_SECRET.search, self.headers), None):
            raise ValueError(f"headers: {secret} is a secret, which belongs into header_files")
        if "authorization" in map(str.lower, self.header_files) and self.authenticated:
            raise ValueError("header_files: Authorization is made of the other options already")
        self._check_oauth2()
        if self.proxy_url:
            check_url("proxy_url", self.proxy_url, ("http", "https"))
        elif self.proxy_username or self.proxy_password_file:
            raise ValueError("proxy_username: needs proxy_url")
        if bool(self.proxy_username) != bool(self.proxy_password_file):
            raise ValueError("proxy_password_file: goes together with proxy_username")

    def _check_oauth2(self) -> None:
        if self.oauth2_url:
            check_url("oauth2_url", self.oauth2_url, ("http", "https"))
            if not self.oauth2_client or not self.oauth2_secret_file:
                raise ValueError("oauth2_url: needs oauth2_client and oauth2_secret_file")
        for option in ("client", "secret_file", "scopes", "parameters"):
            if getattr(self, f"oauth2_{option}") and not self.oauth2_url:
                raise ValueError(f"oauth2_{option}: needs oauth2_url")

    def check_here(self) -> None:
        """Raise StartError when a secret or a file of TLS cannot be used."""
        for option, name in self.secret_files.items():
            check_secret(option.partition(".")[0], name)
        self.check_tls_files(tls=self.encrypted or self.issued_encrypted)

    @property
    def authenticated(self) -> bool:
        """Whether options say who we are."""
        return bool(self.token_file or self.username or self.oauth2_url)

    @property
    def secret_files(self) -> Mapping[str, str]:
        """The files of secrets by their options, those of headers as `header_files.NAME`."""
        options = ("token_file", "password_file", "oauth2_secret_file", "proxy_password_file")
        found = {option: getattr(self, option) for option in options}
        found |= {f"header_files.{header}": name for header, name in self.header_files.items()}
        return {option: name for option, name in found.items() if name}

    @property
    def encrypted(self) -> bool:
        """Whether the URL asks for TLS."""
        return self.url.startswith("https:")

    @property
    def issued_encrypted(self) -> bool:
        """Whether the URL of tokens asks for TLS."""
        return self.oauth2_url.startswith("https:")

    @property
    def place(self) -> str:
        """Host and port of the URL."""
        return urlsplit(self.url).netloc

    @property
    def shown_url(self) -> str:
        """The URL without its query, in which some services want a key."""
        return self.url.partition("?")[0]


def check_url(option: str, url: str, schemes: Sequence[str]) -> None:
    """Raise ValueError unless a URL has one of these schemes and no password in it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname and parts.port != 0
    except ValueError:
        host = False
    if not host or parts.scheme not in schemes or _CONTROL.search(url) or " " in url:
        raise ValueError(
            f"{option}: must begin with {' or '.join(f'{each}://' for each in schemes)}"
        )
    if "@" in parts.netloc:
        user = "proxy_username" if option == "proxy_url" else "username"
        raise ValueError(f"{option}: a user or password belongs into {user} and its password file")
