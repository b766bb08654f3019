"""The Kafka sink, consumed from the brokers of librdkafka's mock cluster."""

import asyncio
import platform
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import aiokafka  # type: ignore[import-untyped]
import pytest

from virtstatd.errors import Denied, Rejected, TryLater
from virtstatd.formats.json_lines import Lines
from virtstatd.model import Batch
from virtstatd.sinks.kafka import Kafka
from virtstatd.testing import TAKEN_AT, check_sink, hostile_batch, make_batch
from virtstatd.testing.contract import opening


MOCK = Path(__file__).parents[1] / "support" / "kafka_mock.py"
TOO_LARGE = 10
NO_LEADER = 5


class Cluster:
    """Brokers that come, go, freeze and refuse."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.brokers: tuple[str, ...] = ()

    async def tell(self, command: str) -> None:
        """Have the brokers obey."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{command}\n".encode())
        assert await self.process.stdout.readline() == b"ok\n"

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Be down for a while."""
        await self.tell("down")
        try:
            yield
        finally:
            await self.tell("up")

    @asynccontextmanager
    async def refusing(self, code: int = TOO_LARGE) -> AsyncIterator[None]:
        """Refuse every message for a while."""
        await self.tell(f"refuse {code}")
        try:
            yield
        finally:
            await self.tell("accept")

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[None]:
        """Be frozen for a while."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def ends(self) -> int:
        """Count all messages."""
        async with aiokafka.AIOKafkaConsumer(bootstrap_servers=list(self.brokers)) as consumer:
            parts = [aiokafka.TopicPartition("virtstatd", number) for number in range(4)]
            return sum((await consumer.end_offsets(parts)).values())

    async def messages(self) -> list[aiokafka.ConsumerRecord]:
        """Consume all messages, those of a partition in their order."""
        count = await self.ends()
        async with aiokafka.AIOKafkaConsumer(
            "virtstatd", bootstrap_servers=list(self.brokers), auto_offset_reset="earliest"
        ) as consumer:
            return [await consumer.getone() for _ in range(count)]


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    """Run three brokers with a topic of four partitions."""
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", sys.executable, str(MOCK)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        running = Cluster(process)
        assert process.stdout
        running.brokers = tuple((await process.stdout.readline()).decode().strip().split(","))
        yield running
    finally:
        process.kill()
        await process.wait()


def expected(batch: Batch) -> dict[bytes, bytes]:
    """Return the lines of each guest by its key."""
    found: dict[bytes, bytes] = {}
    for reading, text in Lines().readings(batch):
        key = (reading.domain.uuid if reading.domain else platform.node()).encode()
        found[key] = found.get(key, b"") + text.encode()
    return found


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_consumers_get_every_line(compression: Literal["none", "gzip"]):
    """Each guest's lines arrive in order, under its UUID, in one partition, with their time."""
    batch = hostile_batch()
    async with cluster() as running:
        async with Kafka(brokers=running.brokers, compression=compression).open(opening()) as send:
            await send(batch)
            await send(make_batch(3, taken_at=TAKEN_AT + 10**9))
        found = await running.messages()
    first = [each for each in found if each.timestamp == TAKEN_AT // 10**6]
    second = [each for each in found if each.timestamp == TAKEN_AT // 10**6 + 1000]
    lines: dict[bytes, bytes] = {}
    for each in first:
        lines[each.key] = lines.get(each.key, b"") + each.value
    assert lines == expected(batch)
    assert {each.key: each.value for each in second} == expected(
        make_batch(3, taken_at=TAKEN_AT + 10**9)
    )
    places = {(each.key, each.partition) for each in found}
    assert len(places) == len(lines)


async def test_messages_are_parted_by_size():
    """Lines of a guest are parted among messages of the size that is wanted."""
    batch = make_batch(2)
    async with cluster() as running:
        async with Kafka(brokers=running.brokers, message_bytes=1024).open(opening()) as send:
            await send(batch)
        found = await running.messages()
    assert len(found) > 2
    assert all(len(each.value) <= 1024 for each in found)
    lines: dict[bytes, bytes] = {}
    for each in found:
        lines[each.key] = lines.get(each.key, b"") + each.value
    assert lines == expected(batch)


async def test_contract_with_brokers_that_come_and_go():
    """The sink keeps the contract while the brokers are there, down, refusing or frozen."""
    async with cluster() as running:
        await check_sink(
            lambda: Kafka(brokers=running.brokers),
            moods={"later": running.away, "never": running.refusing, "stuck": running.silent},
        )


async def test_a_message_that_is_refused():
    """What brokers call too large is lost, and what they may take later is not."""
    async with cluster() as running, Kafka(brokers=running.brokers).open(opening()) as send:
        before = await running.ends()
        async with running.refusing():
            with pytest.raises(Rejected, match="topic virtstatd"):
                await send(make_batch(2))
        await send(make_batch(2))
        assert await running.ends() == before + 2


@pytest.mark.parametrize(
    ("code", "raised", "answered"),
    [
        (10, Rejected, None),  # MESSAGE_TOO_LARGE
        (44, Rejected, None),  # POLICY_VIOLATION
        (29, Denied, None),  # TOPIC_AUTHORIZATION_FAILED
        (17, Denied, None),  # INVALID_TOPIC
        (-1, TryLater, True),  # UNKNOWN_SERVER_ERROR
    ],
)
async def test_what_brokers_answer(code: int, raised: type[Exception], answered: bool | None):
    """Every answer of a broker is told apart by what comes next, and none is forgotten."""
    async with cluster() as running, Kafka(brokers=running.brokers).open(opening()) as send:
        await send(make_batch(1))
        async with running.refusing(code):
            with pytest.raises(raised, match=r"virtstatd|127\.0\.0\.1") as caught:
                await send(make_batch(2))
        assert type(caught.value) is raised
        assert getattr(caught.value, "answered", None) is answered
        await send(make_batch(1))


async def test_nobody_listens():
    """Without any broker a batch waits, and the reason names the address."""
    async with Kafka(brokers=("127.0.0.1:1",)).open(opening()) as send:
        with pytest.raises(TryLater, match=r"127\.0\.0\.1:1"):
            await send(make_batch(1))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"brokers": ()}, "brokers: must have at least 1"),
        ({"brokers": ("localhost",)}, "brokers: must be host:port"),
        ({"username": "u"}, "password_file: username and"),
        (
            {"username": "u", "password_file": "/p", "mechanism": "PLAIN"},
            "mechanism: PLAIN shows the password",
        ),
        ({"ca_file": "/a"}, "ca_file: needs tls"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], fault: str):
    """Options that cannot work are refused with the name of the option."""
    with pytest.raises(ValueError, match=fault):
        Kafka(**options)
