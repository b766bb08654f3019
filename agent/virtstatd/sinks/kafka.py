"""
Kafka: a message per guest and batch, of JSON lines (`formats/json_lines.py`).

A message's key is the guest's UUID, so that all of a guest is in one partition and in order; the
host's own readings have the host's name as their key. A message's time is the batch's. A batch is
delivered when all in-sync replicas have it; one that is sent again may be there twice.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Annotated, ClassVar, Literal, Protocol, cast

import aiokafka  # type: ignore[import-untyped]
from aiokafka import errors
from msgspec import Meta

from virtstatd.errors import Denied, Rejected, TryLater
from virtstatd.formats.chunks import whole_lines
from virtstatd.formats.json_lines import Lines
from virtstatd.runtime.host import host_name
from virtstatd.sending.address import check_server
from virtstatd.sending.link import FIX_SECONDS, KeptConnection, quieten, reason_of
from virtstatd.sending.named import ByHost, Named
from virtstatd.sending.secrets import Login, opened_secret
from virtstatd.sending.tls import Tls, renewed_tls
from virtstatd.sink import Batch, Delivery, Opening, Send, Trains


TURN_MESSAGES = 64
"""Messages after which the loop has a turn: the producer does not wait between them."""

REQUEST_SECONDS = 5.0
"""Time for a broker to answer; shorter than an attempt, so that the reason is the broker's."""

CLOSE_SECONDS = 8.0
"""Time to close: what is under way ends by itself after `REQUEST_SECONDS`."""

MESSAGE_OVERHEAD = 1024

UNFIT = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidTimestampError,
    errors.PolicyViolationError,
)
"""Errors of one message, which say nothing about the others."""

DENIED = (
    errors.InvalidTopicError,
    errors.TopicAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
)
LOGIN = (
    errors.AuthenticationFailedError,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
)


class Producer(Protocol):
    """The parts of aiokafka that are used."""

    async def start(self) -> None:
        """Connect."""
        ...

    async def stop(self) -> None:
        """Wait for what is under way, and disconnect."""
        ...

    async def send(
        self, topic: str, value: bytes, key: bytes, *, timestamp_ms: int
    ) -> asyncio.Future[object]:
        """Hand over a message, and return what is done when a broker has it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kafka(Named, Login, Tls):
    """Produce a message of JSON lines per guest and batch to a Kafka topic."""

    brokers: Annotated[
        tuple[str, ...], Meta(description="Hosts and ports of some brokers of the cluster.")
    ] = ("127.0.0.1:9092",)
    topic: Annotated[
        str,
        Meta(
            description="Topic of all messages.",
            title="1 to 249 letters, digits, dots, _ and -",
            pattern=r"^[A-Za-z0-9._-]{1,249}\Z",
        ),
    ] = "virtstatd"
    compression: Annotated[
        Literal["none", "gzip"], Meta(description="Compression of messages: none or gzip.")
    ] = "gzip"
    message_bytes: Annotated[
        int,
        Meta(description="Size up to which lines share a message.", ge=1024, le=100_000_000),
    ] = 900_000
    mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        Meta(description="How the user logs in: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."),
    ] = "SCRAM-SHA-512"

    delivery: ClassVar[Delivery] = "memory"
    trains: ClassVar[Trains] = Trains(100_000, 3)
    records: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.brokers:
            raise ValueError("brokers: must have at least 1 element")
        for address in self.brokers:
            check_server("brokers", address)
        self.check_login()
        if self.username and self.mechanism == "PLAIN" and not self.tls:
            raise ValueError("mechanism: PLAIN shows the password, it needs tls = true")
        self.check_tls(tls=self.tls)

    def check_here(self) -> None:
        """Raise StartError when the password or a file of TLS cannot be used."""
        self.check_password()
        self.check_tls_files(tls=self.tls)

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Connect with the first batch."""
        quieten("aiokafka")
        context = await self.opened_tls(tls=self.tls)
        password = await opened_secret(self.password_file)

        async def connect() -> Producer:
            producer = self._producer(await renewed_tls(context), await password.read(at_once=True))
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            return producer

        link = KeptConnection(connect, _stop, lambda _: True, CLOSE_SECONDS)
        lines = ByHost(self.host, _HostLines)

        async def send(*batches: Batch) -> None:
            try:
                if context:
                    await context.renewed()  # the library connects when it likes
                async with link.held() as producer:
                    encoder = lines()
                    every = (encoder.messages(each, self.message_bytes) for each in batches)
                    await self._produce(producer, chain.from_iterable(every))
            except DENIED as error:
                raise Denied(password.hidden(f"topic {self.topic}: {reason_of(error)}")) from error
            except (errors.KafkaError, OSError) as error:
                reason = password.hidden(f"{self.brokers[0]}: {reason_of(error)}")
                raise _later(reason, error) from error

        try:
            yield send
        finally:
            await link.close()

    def _producer(self, context: ssl.SSLContext | None, password: str) -> Producer:
        security = "SASL_" if self.username else ""
        return cast(
            "Producer",
            aiokafka.AIOKafkaProducer(
                bootstrap_servers=list(self.brokers),
                client_id=f"virtstatd-{self.host or host_name()}",
                acks="all",
                compression_type=None if self.compression == "none" else self.compression,
                max_batch_size=self.message_bytes + MESSAGE_OVERHEAD,
                max_request_size=self.message_bytes + MESSAGE_OVERHEAD,
                # an idempotent producer never gives up, and could not be closed then
                enable_idempotence=False,
                request_timeout_ms=int(REQUEST_SECONDS * 1000),
                security_protocol=security + ("SSL" if self.tls else "PLAINTEXT"),
                ssl_context=context,
                sasl_mechanism=self.mechanism,
                sasl_plain_username=self.username or None,
                sasl_plain_password=password or None,
            ),
        )

    async def _produce(self, producer: Producer, messages: Iterator[_Message]) -> None:
        """Produce all messages; those that a broker refuses take none of the others with them."""
        waiting: dict[asyncio.Future[object], _Message] = {}
        refused: list[tuple[_Message, errors.KafkaError]] = []
        try:
            for message in messages:
                try:
                    future = await producer.send(
                        self.topic, message.value, message.key, timestamp_ms=message.milliseconds
                    )
                    waiting[future] = message
                    if len(waiting) % TURN_MESSAGES == 0:
                        await asyncio.sleep(0)
                except UNFIT as error:
                    refused.append((message, error))
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            taken = 0
            for message, outcome in zip(waiting.values(), outcomes, strict=True):
                if isinstance(outcome, UNFIT):
                    refused.append((message, outcome))
                elif isinstance(outcome, BaseException):
                    raise outcome
                else:
                    taken += 1
        finally:
            for future in waiting:
                future.cancel()
        if refused:
            samples = math.ceil(sum(message.samples for message, _ in refused))
            last, fault = refused[-1]
            reason = f"topic {self.topic}, key {last.key.decode()}: {reason_of(fault)}"
            raise Rejected(reason, samples if taken else None)


@dataclass(frozen=True, slots=True)
class _Message:
    key: bytes
    value: bytes
    milliseconds: int
    samples: float
    """The samples of its guest, by its share of the guest's lines."""


class _HostLines:
    """The messages of batches, under a name of this host."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._lines = Lines(host)

    def messages(self, batch: Batch, limit: int) -> Iterator[_Message]:
        """Yield the lines of each guest as one message, or several of whole lines."""
        milliseconds = batch.taken_at // 1_000_000
        for domain, group in groupby(self._lines.readings(batch), key=lambda pair: pair[0].domain):
            key = (domain.uuid if domain else self._host).encode()
            readings = list(group)
            text = "".join(text for _, text in readings).encode()
            samples = sum(len(reading.values) for reading, _ in readings)
            for value in whole_lines(text, limit):
                yield _Message(key, value, milliseconds, samples * len(value) / len(text))


async def _stop(producer: Producer) -> None:
    await producer.stop()


def _later(reason: str, error: Exception) -> TryLater:
    if isinstance(error, LOGIN):
        return TryLater(reason, FIX_SECONDS)
    answered = isinstance(error, errors.BrokerResponseError) and not error.retriable
    return TryLater(reason, answered=answered)
