"""A real HTTP server that keeps what it is sent, and has moods."""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from support.servers import Moody
from virtstatd.testing.contract import Moods


@dataclass
class Received:
    """One request."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Stub(Moody):
    """Answer every request with `status`; `decide` may choose one by the request."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    text: bytes = b""
    decide: Callable[[Received], int] | None = None
    tls: ssl.SSLContext | None = None
    requests: list[Received] = field(default_factory=list)
    port: int = 0
    raw: bool = False
    """Whether bodies are kept as they came, compressed."""

    def __post_init__(self) -> None:
        self._runner: web.AppRunner | None = None
        self.speaking: asyncio.Event = asyncio.Event()
        self.speaking.set()

    @property
    def url(self) -> str:
        """Where the stub is."""
        return f"http{'s' if self.tls else ''}://localhost:{self.port}"

    async def start(self) -> None:
        """Listen, at the same port as before."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{rest:.*}", self._answer)
        self._runner = web.AppRunner(
            app, shutdown_timeout=0, access_log=None, auto_decompress=not self.raw
        )
        await self._runner.setup()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", self.port))
            self.port = sock.getsockname()[1]
            await web.SockSite(self._runner, sock.dup(), ssl_context=self.tls).start()

    async def stop(self) -> None:
        """Cut all connections and listen no more."""
        assert self._runner
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        await self.speaking.wait()
        received = Received(request.path, dict(request.query), dict(request.headers), body)
        status = self.decide(received) if self.decide else self.status
        if status < 300:
            self.requests.append(received)
        return web.Response(status=status, headers=self.headers, body=self.text)

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Answer that the request is bad."""
        self.decide = lambda _: 400
        try:
            yield
        finally:
            self.decide = None

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Answer anything."""
        chance = random.Random(1)
        self.decide = lambda _: chance.choice([204, 400, 408, 413, 429, 500, 503])
        try:
            yield
        finally:
            self.decide = None

    async def count(self) -> int:
        """Return how many requests were accepted."""
        return len(self.requests)

    @property
    def moods(self) -> Moods:
        """All moods, as `check_sink` takes them."""
        return {
            "later": self.away,
            "never": self.refusing,
            "random": self.changing,
            "stuck": self.silent,
        }


@asynccontextmanager
async def answering(tls: ssl.SSLContext | None = None, *, raw: bool = False) -> AsyncIterator[Stub]:
    """Run a stub."""
    stub = Stub(tls=tls, raw=raw)
    await stub.start()
    try:
        yield stub
    finally:
        await stub.stop()


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[str]:
    """Run a server that does to each connection what the script says; yield its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(run(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
