"""
Clients that a listener could do without: `python crowd.py HOST PORT COUNT [tls]`.

A quarter asks and never reads, a quarter sends a byte a second, a quarter says nothing, a quarter
sends rubbish. Whoever is cut off comes again. It prints a line once all have been there, and ends
with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


ASKS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
RUBBISH = b"\x16\x03\x01\xff\r\n\r\n"
PAUSE_SECONDS = 1.0


async def come(host: str, port: int, kind: int, encrypted: bool) -> None:
    """Be there once."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind((f"127.0.0.{2 + kind}", 0))
        await loop.sock_connect(sock, (host, port))
        if encrypted and kind < 2:
            await shaken(sock, kind)
            return
        if kind == 0:
            await loop.sock_sendall(sock, ASKS)
        elif kind == 1:
            for byte in itertools.cycle(ASKS[:-2]):
                await loop.sock_sendall(sock, bytes([byte]))
                await asyncio.sleep(PAUSE_SECONDS)
        elif kind == 3:
            await loop.sock_sendall(sock, RUBBISH)
        while kind and await loop.sock_recv(sock, 1024):
            pass
        await asyncio.sleep(30 * PAUSE_SECONDS)


async def shaken(sock: socket.socket, kind: int) -> None:
    """Do the same within TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(sock=sock.dup(), ssl=context, limit=1 << 10)
    try:
        if kind == 0:
            writer.write(ASKS)
            await asyncio.sleep(30 * PAUSE_SECONDS)
        for byte in itertools.cycle(ASKS[:-2]):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(PAUSE_SECONDS)
            if reader.at_eof():
                return
    finally:
        writer.transport.abort()


async def keep_coming(host: str, port: int, kind: int, encrypted: bool) -> None:
    """Come again and again."""
    while True:
        with contextlib.suppress(OSError):
            await come(host, port, kind, encrypted)
        await asyncio.sleep(PAUSE_SECONDS)


async def main() -> None:
    """Be as many as the command line says."""
    host, port, count, *how = sys.argv[1:]
    tasks = [
        asyncio.create_task(keep_coming(host, int(port), number % 4, bool(how)))
        for number in range(int(count))
    ]
    await asyncio.sleep(2 * PAUSE_SECONDS)
    print("there", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def crowd(port: int, count: int, *, encrypted: bool) -> AsyncIterator[None]:
    """Have so many clients at a port, in a process of their own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "127.0.0.1", str(port), str(count)),
        *(["tls"] if encrypted else []),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout
        assert await process.stdout.readline() == b"there\n"
        yield
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(main())
