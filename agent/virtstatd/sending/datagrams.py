"""Datagrams to a host whose address may change."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Iterable

from virtstatd.sending.address import split_address


BURST_BYTES = 65536
"""Bytes that a receiver can take at once without loss: a third of Linux' default buffer."""

PAUSE_SECONDS = 0.005
LOOKUP_SECONDS = 60.0
"""Time after which the host is looked up again: nothing else would show that it has moved."""

LOOKUP_LIMIT_SECONDS = 2.0
"""Time for looking up again, while the address found before is good."""

SocketPlace = tuple[socket.AddressFamily, object]


class Datagrams:
    """Send datagrams without confirmation; OSError where the host is not known or refuses."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._host, self._port = split_address(address)
        self._clock = clock
        self._sock: socket.socket | None = None
        self._found: SocketPlace | None = None
        self._again = 0.0

    async def send(self, datagrams: Iterable[bytes]) -> list[bytes]:
        """Send, and return those that are larger than a datagram can be."""
        sock = await self._connected()
        too_large: list[bytes] = []
        try:
            budget = BURST_BYTES
            for datagram in datagrams:
                if budget < len(datagram):
                    await asyncio.sleep(PAUSE_SECONDS)
                    budget = BURST_BYTES
                budget -= len(datagram)
                if not await _sent(sock, datagram):
                    too_large.append(datagram)
            # that nothing listens there is reported a little later, and only once
            await asyncio.sleep(PAUSE_SECONDS)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))  # noqa: TRY301 - as send would
        except OSError:
            self.close()
            raise
        return too_large

    def close(self) -> None:
        """Close; the host is looked up again with the next datagrams."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    async def _connected(self) -> socket.socket:
        if self._sock is not None and self._clock() < self._again:
            return self._sock
        found = await self._looked_up()
        if self._sock is None or found != self._found:
            self.close()
            self._found = found
            self._sock = _opened(found)
        self._again = self._clock() + LOOKUP_SECONDS
        return self._sock

    async def _looked_up(self) -> SocketPlace:
        loop = asyncio.get_running_loop()
        known = self._found if self._sock is not None else None
        try:
            async with asyncio.timeout(LOOKUP_LIMIT_SECONDS if known else None):
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        except (OSError, TimeoutError):
            if known is None:
                raise
            return known
        places: list[SocketPlace] = [(family, place) for family, _, _, _, place in found]
        return known if known in places else places[0]


def _opened(place: SocketPlace) -> socket.socket:
    family, address = place
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(address)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    return sock


async def _sent(sock: socket.socket, datagram: bytes) -> bool:
    """Send as soon as there is room; return whether it can be a datagram at all."""
    while True:
        try:
            sock.send(datagram)
        except BlockingIOError:
            await asyncio.sleep(PAUSE_SECONDS)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            return False
        else:
            return True
