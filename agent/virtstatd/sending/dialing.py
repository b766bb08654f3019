"""Connections over TCP: to the address that answers, and lost when the peer vanishes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from aiohappyeyeballs import AddrInfoType, start_connection


NEXT_SECONDS = 0.25
"""Time after which the next address is tried beside the one before (RFC 8305)."""

IDLE_SECONDS = 15
PROBE_SECONDS = 5
PROBES = 3
UNREAD_SECONDS = 30
"""Time after which a peer that acknowledges nothing is lost; Linux waits for 15 minutes."""

_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


async def dialed(host: str, port: int) -> socket.socket:
    """Look a host up and return a socket that is connected to it; raises OSError."""
    loop = asyncio.get_running_loop()
    return await connected(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))


async def connected(addresses: Sequence[AddrInfoType]) -> socket.socket:
    """Return a socket that is connected to the first of these addresses that answers."""
    sock = await start_connection(addresses, happy_eyeballs_delay=NEXT_SECONDS, interleave=1)
    try:
        guard(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def guard(sock: socket.socket) -> None:
    """Have the kernel notice when the peer is gone without a word."""
    for level, option, value in _OPTIONS:
        sock.setsockopt(level, option, value)
