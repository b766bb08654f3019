"""The sink keeps virtstatd's contract, and sends what it is given."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from virtstatd_webhook import Webhook

from virtstatd.testing import check_sink, make_batch, opening


class Receiver:
    """A server that keeps what it is sent and answers with a status."""

    def __init__(self) -> None:
        self.status = 204
        self.lines: list[bytes] = []

    async def receive(self, request: web.Request) -> web.Response:
        """Answer a request."""
        self.lines += (await request.read()).splitlines()
        return web.Response(status=self.status)

    async def count(self) -> int:
        """Return how much has come."""
        return len(self.lines)

    @asynccontextmanager
    async def answering(self, status: int) -> AsyncIterator[None]:
        """Answer with another status for a while."""
        self.status = status
        try:
            yield
        finally:
            self.status = 204


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Run a server."""
    receiver = Receiver()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/", receiver.receive)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/"))
        yield receiver


async def test_contract(receiver: Receiver):
    """The sink keeps every promise, whether its server is well, busy or refuses."""
    await check_sink(
        lambda: Webhook(url=receiver.url),
        moods={"later": lambda: receiver.answering(503), "never": lambda: receiver.answering(400)},
        received=receiver.count,
    )


async def test_every_number_arrives(receiver: Receiver):
    """Each number of a batch is an object with its value."""
    batch = make_batch(2)
    async with Webhook(url=receiver.url).open(opening()) as send:
        await send(batch)
    values = [json.loads(line)["value"] for line in receiver.lines]
    assert values == [value for reading in batch.readings for value in reading.values]
