"""Ports for servers that are started in a moment."""

from __future__ import annotations

import os
import random
import socket


_GIVEN: set[int] = set()
_CHANCE = random.Random(os.getpid())


def free_port() -> int:
    """
    Return a port that nobody listens at, each only once.

    It lies below those that the kernel gives to clients and to whoever asks for port 0: one of
    those may be taken by another process before the server starts.
    """
    while True:
        port = _CHANCE.randrange(10_000, 32_768)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port
