"""What every sink does where another kind of server listens: batches wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from virtstatd.errors import TryLater
from virtstatd.sinks.influx import Influx
from virtstatd.sinks.kafka import Kafka
from virtstatd.sinks.mqtt import Mqtt
from virtstatd.sinks.nats import Nats
from virtstatd.sinks.otlp import Otlp
from virtstatd.sinks.postgres import Postgres
from virtstatd.sinks.remote_write import RemoteWrite
from virtstatd.testing import make_batch
from virtstatd.testing.contract import opening


SAYINGS = {
    "nothing": b"",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "smtp": b"220 mail.example.net ESMTP Postfix\r\n",
    "zeros": bytes(64),
    "noise": random.Random(1).randbytes(256),
    "info": b"INFO {not json}\r\n",
    "redis": b"-ERR unknown command\r\n",
}


@asynccontextmanager
async def saying(text: bytes) -> AsyncIterator[int]:
    """Listen at a port, say something to whoever comes, and hang up after the first word."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            writer.write(text)
            await writer.drain()
            await asyncio.wait_for(reader.read(1), 0.2)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


SINKS: dict[str, Callable[[int, str], Any]] = {
    "influx": lambda port, _: Influx(url=f"http://127.0.0.1:{port}"),
    "kafka": lambda port, _: Kafka(brokers=(f"127.0.0.1:{port}",)),
    "mqtt": lambda port, _: Mqtt(address=f"127.0.0.1:{port}"),
    "nats": lambda port, _: Nats(servers=(f"nats://127.0.0.1:{port}",)),
    "otlp": lambda port, _: Otlp(url=f"http://127.0.0.1:{port}/v1/metrics"),
    "grpc": lambda port, _: Otlp(url=f"http://127.0.0.1:{port}", protocol="grpc"),
    "postgres": lambda port, password: Postgres(
        url=f"postgresql://u@127.0.0.1:{port}/d", password_file=password
    ),
    "remote_write": lambda port, _: RemoteWrite(url=f"http://127.0.0.1:{port}/w"),
}


@pytest.mark.parametrize("text", SAYINGS)
@pytest.mark.parametrize("name", SINKS)
async def test_another_server_at_the_port_costs_nothing(tmp_path: Path, name: str, text: str):
    """It is said to be away, in a reason of one line, and the batch is for later."""
    password = tmp_path / "password"
    password.write_text("secret")
    async with saying(SAYINGS[text]) as port, asyncio.timeout(100):
        async with SINKS[name](port, str(password)).open(opening()) as send:
            with pytest.raises(TryLater) as caught:
                await asyncio.wait_for(send(make_batch(1)), 20)
        assert "\n" not in str(caught.value)
