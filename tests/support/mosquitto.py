"""A broker of MQTT, and a client that reads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt

from support.ports import free_port
from support.servers import Server, place, serving


CONFIG = """
user root
allow_anonymous true
max_queued_messages 0
listener {port} 127.0.0.1
{more}
"""


@asynccontextmanager
async def broker(more: str = "") -> AsyncIterator[tuple[Server, Path]]:
    """Run a broker; `{place}` in its configuration is its directory."""
    with place() as directory:
        port = free_port()
        config = directory / "mosquitto.conf"
        config.write_text(CONFIG.format(port=port, more=more.format(place=directory)))
        async with serving(["mosquitto", "-c", str(config)], port) as running:
            yield running, directory


def client(running: Server) -> aiomqtt.Client:
    """Return a client that reads."""
    return aiomqtt.Client(
        "127.0.0.1", running.port, protocol=aiomqtt.ProtocolVersion.V5, timeout=10
    )
