"""A disk that can be opened, and fails every read and write: an NBD server on a socket file."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self


SIZE: Final = 1 << 20
EIO: Final = 5
HELLO: Final = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 0)
WISH: Final = struct.Struct(">I8sII")
EXPORT: Final = struct.pack(">QH124x", SIZE, 1)
"""The simplest negotiation: whatever name is wished for is a disk of this size."""

REQUEST: Final = struct.Struct(">IHHQQI")
REPLY: Final = struct.Struct(">IIQ")
WRITE, DISCONNECT = 1, 2


class BrokenDisk:
    """Serves any number of clients within a block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._clients: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def xml(self, target: str) -> str:
        """Return the XML of the disk; its guest is told of an error and goes on."""
        return (
            "<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none' "
            "error_policy='report' rerror_policy='report'/>"
            "<source protocol='nbd' name='broken'>"
            f"<host transport='unix' socket='{self.path}'/></source>"
            f"<target dev='{target}' bus='virtio'/></disk>"
        )

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in (self._listener, *self._clients):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                self._start(self._serve, client)

    @staticmethod
    def _serve(client: socket.socket) -> None:
        with suppress(OSError, struct.error), client.makefile("rb") as requests:
            client.sendall(HELLO)
            _, _, _, length = WISH.unpack(requests.read(WISH.size))
            requests.read(length)
            client.sendall(EXPORT)
            while len(head := requests.read(REQUEST.size)) == REQUEST.size:
                _, _, kind, handle, _, length = REQUEST.unpack(head)
                if kind == DISCONNECT:
                    return
                if kind == WRITE:
                    requests.read(length)
                client.sendall(REPLY.pack(0x67446698, EIO, handle))
