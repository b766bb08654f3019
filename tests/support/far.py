"""A receiver that is far away: what it answers comes later."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


CHUNK_BYTES = 1 << 16


@contextmanager
def far(port: int, seconds: float) -> Iterator[int]:
    """
    Forward connections to a port of this host, and yield the port for that.

    What comes back is passed on after some seconds; it is delayed, not slowed down, as by a long
    line.
    """
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stop = asyncio.Event()
    chosen: list[int] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_passed(reader, back, 0.0))
                tasks.create_task(_passed(there, writer, seconds))
        finally:
            for each in (writer, back):
                each.transport.abort()

    async def run() -> None:
        server = await asyncio.start_server(forward, "127.0.0.1", 0, limit=CHUNK_BYTES)
        chosen.append(server.sockets[0].getsockname()[1])
        ready.set()
        await stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield chosen[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive()
        loop.close()


async def _passed(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> None:
    """Pass on what is read, each piece so many seconds after it came."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1 << 12)

    async def write() -> None:
        while True:
            due, piece = await waiting.get()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            if not piece:
                writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()

    async def read() -> None:
        while True:
            piece = await reader.read(CHUNK_BYTES)
            await waiting.put((loop.time() + seconds, piece))
            if not piece:
                return

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            tasks.create_task(read())
    except* OSError:  # one side has hung up
        pass
