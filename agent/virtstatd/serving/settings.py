"""What the files of the table `[web]` say: certificates, users, tokens, read when they change."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from structlog.typing import FilteringBoundLogger

from virtstatd.errors import StartError, plain_reason
from virtstatd.runtime.worker import Worker
from virtstatd.sending.paths import path_of
from virtstatd.sending.secrets import secret
from virtstatd.serving.options import WebOptions
from virtstatd.serving.web_config import TlsConfig, WebConfig, read_web_config


LOOK_SECONDS: Final = 1.0
"""How often files are looked at, at most, and how long a client waits for a disk that hangs."""

Certificates = Literal["none", "accept", "require"]


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Who may connect and log in.

    `enough` says whether a certificate stands in for a login where there are users or tokens.
    """

    tls: ssl.SSLContext | None = None
    certificate: Path | None = None
    certificates: Certificates = "none"
    enough: bool = False
    allowed_names: frozenset[str] = frozenset()
    users: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def login(self) -> bool:
        """Whether there is anything to log in with but a certificate."""
        return bool(self.users or self.tokens)

    @property
    def authenticated(self) -> bool:
        """Whether every client has to log in."""
        return self.login or self.certificates == "require" or self.enough


def read_settings(options: WebOptions) -> tuple[Settings, tuple[Path, ...]]:
    """
    Read everything; return it and the files that it came from.

    Raises StartError, which begins with the option where one file is at fault.
    """
    tokens = {name: _token(name, file) for name, file in options.token_files.items()}
    paths = [path_of(file) for file in options.token_files.values()]
    if options.web_config_file:
        web = _web_config(options.web_config_file)
        tls, users, headers = web.tls, web.users, web.headers
        paths.append(path_of(options.web_config_file))
        enough = False
    else:
        tls = TlsConfig(
            _path("certificate_file", options.certificate_file),
            _path("key_file", options.key_file),
            _path("client_ca_file", options.client_ca_file),
            options.client_certificates if options.client_ca_file else "none",
        )
        users, headers = options.users, {}
        enough = tls.certificates == "accept"
    paths += [path for path in (tls.certificate, tls.key, tls.client_ca) if path]
    settings = Settings(
        tls=_context(tls) if tls.certificate else None,
        certificate=tls.certificate,
        certificates=tls.certificates,
        enough=enough,
        allowed_names=tls.allowed_names,
        users=users,
        tokens=tokens,
        headers=headers,
    )
    return settings, tuple(paths)


class FollowedSettings:
    """
    The settings, made again when one of their files changes; on a thread, since disks may hang.

    While files cannot be used, as with half of a new pair, what was read before stays in force.
    """

    def __init__(
        self,
        options: WebOptions,
        log: FilteringBoundLogger,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._options = options
        self._log = log
        self._clock = clock or asyncio.get_running_loop().time
        self._settings, self._paths = read_settings(options)
        self._marks = _marks(self._paths)
        self._worker = Worker("web files") if self._paths else None
        self._looking: asyncio.Future[None] | None = None
        self._looked = self._clock()
        self._failing = False

    async def current(self) -> Settings:
        """Return what is in force now."""
        if self._worker is None:
            return self._settings
        if self._looking is None and self._clock() - self._looked >= LOOK_SECONDS:
            self._looked = self._clock()
            self._looking = self._worker.submit(self._look)
        if (looking := self._looking) is not None:
            left = self._looked + LOOK_SECONDS - self._clock()
            if left > 0:  # a disk that hangs holds up nobody twice
                await asyncio.wait([looking], timeout=left)
            if looking.done() and self._looking is looking:
                self._looking = None
                self._report(looking.exception())
        return self._settings

    async def context(self) -> ssl.SSLContext | None:
        """Return the context of the next connection, None where it is not encrypted."""
        return (await self.current()).tls

    def close(self) -> None:
        """End the thread."""
        if self._worker is not None:
            self._worker.close()

    def _look(self) -> None:
        marks = _marks(self._paths)
        if marks != self._marks:
            settings, paths = read_settings(self._options)
            # those from before: what has changed while it was read is read again
            self._marks = marks if paths == self._paths else _marks(paths)
            self._settings, self._paths = settings, paths

    def _report(self, error: BaseException | None) -> None:
        if error is not None and not self._failing:
            self._log.warning("web.stale", reason=str(error))
        self._failing = error is not None


def _marks(paths: tuple[Path, ...]) -> tuple[tuple[int, int, int] | None, ...]:
    marks: list[tuple[int, int, int] | None] = []
    for path in paths:
        mark = None
        with suppress(OSError):
            found = path.stat()
            mark = found.st_ino, found.st_size, found.st_mtime_ns
        marks.append(mark)
    return tuple(marks)


def _context(config: TlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = config.least
    if config.most is not None:
        context.maximum_version = config.most
    context.set_alpn_protocols(["http/1.1"])
    try:
        if config.ciphers:
            context.set_ciphers(":".join(config.ciphers))
        # without the empty password OpenSSL would ask for one at the terminal
        context.load_cert_chain(str(config.certificate), config.key, password="")
    except (OSError, ValueError) as error:
        raise StartError(
            f"certificate_file: cannot use {config.certificate}: {plain_reason(error)}"
        ) from error
    if config.client_ca:
        try:
            context.load_verify_locations(cafile=config.client_ca)
        except (OSError, ValueError) as error:
            raise StartError(
                f"client_ca_file: cannot use {config.client_ca}: {plain_reason(error)}"
            ) from error
        required = config.certificates == "require"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def _path(option: str, name: str) -> Path | None:
    try:
        return path_of(name) if name else None
    except StartError as error:
        raise StartError(f"{option}: {error}") from error


def _token(name: str, file: str) -> str:
    try:
        return secret(file)
    except StartError as error:
        raise StartError(f"token_files: {name}: {error}") from error


def _web_config(file: str) -> WebConfig:
    try:
        return read_web_config(path_of(file))
    except StartError as error:
        raise StartError(f"web_config_file: {error}") from error
