"""Brokers of Kafka that come, go, freeze and refuse."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiokafka  # type: ignore[import-untyped]


MOCK = Path(__file__).with_name("kafka_mock.py")
TOO_LARGE = 10


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
