"""TLS as every sink has it: the options, and a context that follows its files when they change."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from msgspec import Meta

from virtstatd.errors import StartError
from virtstatd.sending.secrets import FILE, path_of


Marks = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and time of change of each file, None for one that is not there."""


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

    def tls_context(self, *, tls: bool, protocols: tuple[str, ...] = ()) -> Context | None:
        """Return the context of connections, None without TLS; raise StartError for a bad file."""
        return Context(self, protocols) if tls else None


@dataclass(frozen=True, kw_only=True)
class Tls(TlsFiles):
    """The TLS options of a sink with a host and port, among them whether to use it."""

    tls: Annotated[
        bool, Meta(description="Encrypt the connection, and check the server's name.")
    ] = False


class Context(ssl.SSLContext):
    """
    A client's context that reads its files again when they change.

    Each new connection looks at the files. While they do not fit together, as with half of a new
    pair, the ones read before stay in use.
    """

    def __new__(cls, files: TlsFiles, protocols: tuple[str, ...]) -> Self:
        """Make the outer context, which libraries inspect; it has no authorities itself."""
        del files, protocols
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, files: TlsFiles, protocols: tuple[str, ...]) -> None:
        self._files = files
        self._protocols = protocols
        self._marks = _marks(files)
        self._current = _made(files, protocols)

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
        return self._renewed().wrap_bio(incoming, outgoing, server_side, name, session)

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
        return self._renewed().wrap_socket(
            sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, name, session
        )

    def _renewed(self) -> ssl.SSLContext:
        marks = _marks(self._files)
        if marks != self._marks:
            with suppress(StartError):  # half of a pair may have been written yet
                self._current = _made(self._files, self._protocols)
                self._marks = marks
        return self._current


def _marks(files: TlsFiles) -> Marks:
    marks: list[tuple[int, int, int] | None] = []
    for name in filter(None, (files.ca_file, files.certificate_file, files.key_file)):
        try:
            found = path_of(name).stat()
        except (StartError, OSError):
            marks.append(None)
        else:
            marks.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(marks)


def _made(files: TlsFiles, protocols: tuple[str, ...]) -> ssl.SSLContext:
    try:
        authorities = _path("ca_file", files.ca_file)
        context = ssl.create_default_context(cafile=authorities)
    except (OSError, ValueError) as error:
        raise StartError(f"ca_file: cannot use {files.ca_file}: {error}") from error
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if certificate := _path("certificate_file", files.certificate_file):
        key = _path("key_file", files.key_file)
        try:
            # without the empty password OpenSSL would ask for one at the terminal
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            raise StartError(f"certificate_file: cannot use {certificate}: {error}") from error
    return context


def _path(option: str, name: str) -> Path | None:
    try:
        return path_of(name) if name else None
    except StartError as error:
        raise StartError(f"{option}: {error}") from error
