"""A NATS server, and what its stream holds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats

from support.ports import free_port
from support.servers import Server, place, serving


@asynccontextmanager
async def server(config: str = "") -> AsyncIterator[tuple[Server, Path]]:
    """Run a server with JetStream; yield it and its directory."""
    with place() as directory:
        port = free_port()
        path = directory / "nats.conf"
        path.write_text(
            f'listen: "127.0.0.1:{port}"\njetstream {{store_dir: "{directory}"}}\n{config}'
        )
        async with serving(["nats-server", "-c", str(path)], port) as running:
            yield running, directory


def url(running: Server) -> str:
    """Return where the server is."""
    return f"nats://127.0.0.1:{running.port}"


@asynccontextmanager
async def stream(running: Server, **options: Any) -> AsyncIterator[nats.js.JetStreamContext]:
    """Make the stream VIRT, and yield what asks for it."""
    client = await nats.connect(url(running))
    try:
        js = client.jetstream()
        await js.add_stream(name="VIRT", subjects=["virtstatd.>"], **options)
        yield js
    finally:
        await client.close()


async def stored(js: nats.js.JetStreamContext) -> list[tuple[str, bytes]]:
    """Return all that the stream holds, in its order."""
    state = (await js.stream_info("VIRT")).state
    found = [await js.get_msg("VIRT", seq) for seq in range(1, state.messages + 1)]
    return [(each.subject or "", each.data or b"") for each in found]
