"""Connections go to the address that answers, and notice a peer that is gone."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from virtstatd.sending.dialing import UNREAD_SECONDS, connected, dialed


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Yield a socket that accepts."""
    with socket.create_server((host, 0)) as sock:
        yield sock


@contextmanager
def black_hole() -> Iterator[socket.socket]:
    """Yield a socket whose queue is full: the kernel answers no one any more."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as sock:
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(sock.getsockname())
        try:
            yield sock
        finally:
            for each in waiting:
                each.close()


def info(sock: socket.socket) -> tuple[int, int, int, str, tuple[str, int]]:
    """Return what a look-up says of an address."""
    return socket.AF_INET, socket.SOCK_STREAM, 0, "", sock.getsockname()


async def test_an_address_that_never_answers_costs_a_moment():
    """Where the first address is a black hole the second one is used."""
    with black_hole() as hole, listening() as good:
        async with asyncio.timeout(100):
            with await connected([info(hole), info(good)]) as sock:
                assert sock.getpeername() == good.getsockname()


async def test_the_kernel_watches_the_peer():
    """A peer that is gone without a word is noticed within half a minute, also while idle."""
    with listening() as good, await dialed(*good.getsockname()) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        unread = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        idle, probe, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
    assert unread == UNREAD_SECONDS * 1000
    assert idle + probe * count <= UNREAD_SECONDS


async def test_nobody_there():
    """An address where nobody listens is an error of the network."""
    with listening() as sock:
        place = sock.getsockname()
    with pytest.raises(ConnectionRefusedError):
        await dialed(*place)
