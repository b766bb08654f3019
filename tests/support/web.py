"""The agent's listener as its clients have it."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from virtstatd.config.file import parse_config
from virtstatd.model import Batch
from virtstatd.service.web import Web
from virtstatd.serving.http import Request, Respond, Response
from virtstatd.serving.listener import ClientLimits, Connections, GetContext, listening
from virtstatd.sink import Opening, Send


@dataclass
class Opened:
    """A listener that shows the sinks of a configuration."""

    web: Web
    log: structlog.testing.CapturingLogger
    sends: list[Send]

    @property
    def ports(self) -> list[int]:
        """Where it listens."""
        return [call.kwargs["port"] for call in self.events("web.listening")]

    @property
    def port(self) -> int:
        """Where it listens first."""
        return self.ports[0]

    def events(self, name: str) -> list[Any]:
        """Return what was logged under a name."""
        return [call for call in self.log.calls if call.args[:1] == (name,)]

    async def send(self, batch: Batch) -> None:
        """Have every sink show a batch as if it had just been taken."""
        self.web.seen(batch)
        for send in self.sends:
            await send(taken_now(batch))


@asynccontextmanager
async def opened(text: str = "[web]\nlisten_address = '127.0.0.1:0'") -> AsyncIterator[Opened]:
    """Listen as a configuration says."""
    config = parse_config(text, "v.toml")
    log = structlog.testing.CapturingLogger()
    it = Opened(Web(config, log), log, [])
    async with AsyncExitStack() as stack:
        for each in config.sinks:
            opening = Opening(each.name, log, routes=it.web.routes)
            it.sends.append(await stack.enter_async_context(each.sink.open(opening)))
        await stack.enter_async_context(it.web.listening({}))
        yield it


@asynccontextmanager
async def served(
    limits: ClientLimits | None = None,
    body: bytes = b"yes\n",
    *,
    respond: Respond | None = None,
    tls: GetContext | None = None,
) -> AsyncIterator[tuple[int, Connections]]:
    """Serve one body at every path of a free port within other limits."""

    async def answer(_: Request) -> Response:
        pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
        return Response(pieces, len(body))

    connections = Connections(structlog.testing.CapturingLogger(), limits)
    sock = socket.create_server(("", 0))
    async with listening(sock, respond or answer, connections, tls):
        yield sock.getsockname()[1], connections


def taken_now(batch: Batch) -> Batch:
    """Return a batch as if it had just been taken."""
    return replace(batch, taken_at=time.time_ns())


@asynccontextmanager
async def connected(
    port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, source: str = ""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, from an address of this host if wanted, and leave nothing behind."""
    reader, writer = await asyncio.open_connection(
        host,
        port,
        ssl=tls,
        server_hostname="localhost" if tls else None,
        local_addr=(source, 0) if source else None,
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(port: int, raw: bytes, **how: Any) -> bytes:
    """Send bytes and return everything up to the end of the connection."""
    async with connected(port, **how) as (reader, writer):
        writer.write(raw)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def get(
    port: int,
    path: str = "/metrics",
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    source: str = "",
    **headers: str,
) -> tuple[int, dict[str, Any], bytes]:
    """Return status, headers and body of one request."""
    headers = {"Host": f"localhost:{port}", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    request = f"GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode()
    raw = await ask(port, request, tls=tls, host=host, source=source)
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *rest = head.decode().split("\r\n")
    found = dict(line.lower().split(": ", 1) for line in rest)
    assert int(found["content-length"]) == len(body)
    return int(status.split()[1]), found, body


@contextmanager
def silent_clients(port: int, count: int, raw: bytes, source: str = "") -> Iterator[None]:
    """Have clients connect, send bytes, and then neither read nor send."""
    clients = []
    try:
        for _ in range(count):
            client = socket.socket()
            clients.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            if source:
                client.bind((source, 0))
            client.connect(("127.0.0.1", port))
            client.sendall(raw)
        yield
    finally:
        for client in clients:
            client.close()
