"""TLS as every sink has it: the options, and a context that follows its files when they change."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from msgspec import Meta

from virtstatd.errors import StartError, plain_reason
from virtstatd.sending.paths import FILE, path_of
from virtstatd.sending.watched import Watched


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """The TLS options of a sink whose URL scheme turns TLS on."""

    ca_file: Annotated[
        str, Meta(description=f"File of the authorities to trust, not the system's: {FILE}.")
    ] = ""
    certificate_file: Annotated[
        str, Meta(description=f"File of the client certificate: {FILE}.")
    ] = ""
    key_file: Annotated[str, Meta(description=f"File of the client certificate's key: {FILE}.")] = (
        ""
    )
    server_name: Annotated[
        str,
        Meta(description="Name that the server's certificate must have; empty is its address's."),
    ] = ""

    def check_tls(self, *, tls: bool) -> None:
        """Raise ValueError when the options do not go together."""
        for option in ("ca_file", "certificate_file", "key_file", "server_name"):
            if getattr(self, option) and not tls:
                raise ValueError(f"{option}: needs tls = true, or a URL that means it")
        if self.key_file and not self.certificate_file:
            raise ValueError("key_file: needs certificate_file")

    def check_tls_files(self, *, tls: bool) -> None:
        """Raise StartError for a file that TLS cannot use; reading it may block."""
        if tls:
            _made(self, ())

    async def opened_tls(
        self,
        *,
        tls: bool,
        protocols: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> Context | None:
        """Return the context of connections, None without TLS; raise StartError for a bad file."""
        if not tls:
            return None
        context = Context(self, protocols, clock)
        await context.first()
        return context


@dataclass(frozen=True, kw_only=True)
class Tls(TlsFiles):
    """The TLS options of a sink with a host and port, among them whether to use it."""

    tls: Annotated[
        bool, Meta(description="Encrypt the connection, and check the server's name.")
    ] = False


class Context(ssl.SSLContext):
    """
    A client's context that is made again when its files change.

    That happens in `renewed`, off the event loop, which is called before a connection is opened.
    While the files do not fit together, as with half of a new pair, the ones read before stay in
    use. Without `ca_file` the system's authorities are such files.
    """

    def __new__(
        cls, files: TlsFiles, protocols: tuple[str, ...], clock: Callable[[], float]
    ) -> Self:
        """Make the outer context, which libraries inspect; it has no authorities itself."""
        del files, protocols, clock
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self, files: TlsFiles, protocols: tuple[str, ...], clock: Callable[[], float]
    ) -> None:
        self._files = files
        named = (files.ca_file, files.certificate_file, files.key_file)
        names = [*filter(None, named), *(() if files.ca_file else _of_the_system())]
        self._watched = Watched(names, lambda: _made(files, protocols), clock)

    async def first(self) -> None:
        """Read the files at the start; raise StartError for what cannot be used."""
        self._current = await self._watched.first()

    async def renewed(self, *, at_once: bool = False) -> None:
        """Look at the files, once a second at most, so that connections use what they hold now."""
        self._current = await self._watched.get(at_once=at_once)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - as the standard library has it
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Encrypt a connection of an event loop."""
        name = self._files.server_name or server_hostname
        return self._current.wrap_bio(incoming, outgoing, server_side, name, session)

    def wrap_socket(
        self,
        sock: socket.socket,
        server_side: bool = False,  # noqa: FBT001, FBT002 - as the standard library has it
        do_handshake_on_connect: bool = True,  # noqa: FBT001, FBT002 - as above
        suppress_ragged_eofs: bool = True,  # noqa: FBT001, FBT002 - as above
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        """Encrypt a connection of a thread."""
        name = self._files.server_name or server_hostname
        return self._current.wrap_socket(
            sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, name, session
        )


async def renewed_tls(context: Context | None) -> Context | None:
    """Return the context for a new connection, with its files as they are now."""
    if context is not None:
        await context.renewed(at_once=True)
    return context


def _of_the_system() -> list[str]:
    """Return where the system's authorities are."""
    paths = ssl.get_default_verify_paths()
    return [place for place in (paths.cafile, paths.capath) if place]


def _made(files: TlsFiles, protocols: tuple[str, ...]) -> ssl.SSLContext:
    try:
        authorities = _path("ca_file", files.ca_file)
        context = ssl.create_default_context(cafile=authorities)
    except (OSError, ValueError) as error:
        raise StartError(f"ca_file: cannot use {files.ca_file}: {plain_reason(error)}") from error
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if certificate := _path("certificate_file", files.certificate_file):
        key = _path("key_file", files.key_file)
        try:
            # without the empty password OpenSSL would ask for one at the terminal
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            raise StartError(
                f"certificate_file: cannot use {certificate}: {plain_reason(error)}"
            ) from error
    return context


def _path(option: str, name: str) -> Path | None:
    try:
        return path_of(name) if name else None
    except StartError as error:
        raise StartError(f"{option}: {error}") from error
