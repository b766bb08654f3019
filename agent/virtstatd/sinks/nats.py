"""
NATS, core or JetStream: a message per reading, of JSON lines (`formats/json_lines.py`).

Without `stream` a batch is delivered when the server has it; subscribers that are away miss it.
With `stream` it is delivered when JetStream has confirmed every message. Each then bears a
`Nats-Msg-Id` that is the same when the batch is sent again, so that the stream's window for
duplicates leaves the second out.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from msgspec import Meta
from nats.aio.client import Client, RawCredentials
from nats.errors import (
    BadSubjectError,
    ConnectionClosedError,
    Error,
    MaxPayloadError,
    NoServersError,
)
from nats.js.api import PubAck
from nats.js.client import JetStreamContext
from nats.js.errors import BadRequestError, NoStreamResponseError

from virtstatd.errors import Denied, Rejected, TryLater
from virtstatd.formats.json_lines import Lines
from virtstatd.formats.topics import Topics, by_topic, check_template
from virtstatd.runtime.host import host_name
from virtstatd.sending.link import CLOSE_SECONDS, FIX_SECONDS, KeptConnection, quieten, reason_of
from virtstatd.sending.named import ByHost, Named
from virtstatd.sending.paths import FILE
from virtstatd.sending.secrets import Login, Secret, credentials_text, opened_secret
from virtstatd.sending.tls import Tls, renewed_tls
from virtstatd.sink import Batch, Delivery, Opening, Send, Trains


CONNECT_SECONDS = 3
FLUSH_SECONDS = 600
"""Longer than any attempt: the outlet's own limit ends it."""

UNCONFIRMED = 2000
"""Most messages in flight; at 4,000 the client turns a cancel into another error."""

TURN_MESSAGES = 64
"""Messages after which the loop has a turn: the client does not wait between them."""

HEADER_BYTES = 1024
STREAM = "the stream refuses"

CREDENTIALS = "BEGIN NATS USER JWT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nats(Named, Login, Tls):
    """Publish a message of JSON lines per guest and batch to NATS or JetStream."""

    servers: Annotated[
        tuple[str, ...], Meta(description="URLs of the servers, one of which is used.")
    ] = ("nats://127.0.0.1:4222",)
    subject: Annotated[
        str,
        Meta(
            description="Subject of a reading; `{host}`, `{source}`, `{group}`, `{domain}` and"
            " `{uuid}` are filled in, and what a batch has for one subject is one message."
        ),
    ] = "virtstatd.{host}.{uuid}"
    stream: Annotated[
        str,
        Meta(
            description="JetStream stream that must confirm every message; empty is core NATS.",
            title="empty or letters, digits, _ and -",
            pattern=r"^[A-Za-z0-9_-]*\Z",
        ),
    ] = ""
    credentials_file: Annotated[
        str,
        Meta(description=f"File of a user's token and seed, as `nsc` writes them: {FILE}."),
    ] = ""

    delivery: ClassVar[Delivery] = "memory"
    trains: ClassVar[Trains] = Trains(100_000)
    records: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.servers:
            raise ValueError("servers: must have at least 1 element")
        for url in self.servers:
            try:
                parts = urlsplit(url)
                known = parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0
            except ValueError:
                known = False
            if not known:
                raise ValueError("servers: must be URLs that begin with nats:// or tls://")
            if "@" in parts.netloc:
                raise ValueError("servers: a password belongs into password_file")
        check_template("subject", self.subject, ".")
        self.check_login()
        self.check_tls(tls=self.tls)

    def check_here(self) -> None:
        """Raise StartError when the password, the credentials or a file of TLS cannot be used."""
        self.check_password()
        if self.credentials_file:
            self._credentials_text()
        self.check_tls_files(tls=self.tls)

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Connect with the first batch."""
        quieten("nats")
        context = await self.opened_tls(tls=self.tls)
        password = await opened_secret(self.password_file)
        credentials = Secret(self.credentials_file, reading=self._credentials_text)
        await credentials.first()

        async def connect() -> _Connection:
            connection = _Connection()
            try:
                await connection.client.connect(
                    servers=list(self.servers),
                    name=f"virtstatd {self.host or host_name()}",
                    user=self.username or None,
                    password=await password.read(at_once=True) or None,
                    user_credentials=RawCredentials(await credentials.read(at_once=True))
                    if self.credentials_file
                    else None,
                    tls=await renewed_tls(context),
                    connect_timeout=CONNECT_SECONDS,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,  # zero would be without end
                    reconnect_time_wait=0,
                    error_cb=connection.failed,
                    closed_cb=connection.ended,
                )
            except NoServersError as error:
                await connection.close()
                raise connection.faults[-1] if connection.faults else error from None
            except BaseException:
                await connection.close()
                raise
            connection.faults.clear()  # those of servers before
            return connection

        messages = ByHost(self.host, lambda host: _Messages(self.subject, host))
        link = KeptConnection(connect, _Connection.close, _Connection.alive)

        async def send(*batches: Batch) -> None:
            try:
                async with link.held() as connection:
                    encoder = messages()
                    every = (encoder.of(batch, connection.limit) for batch in batches)
                    await connection.publish(chain.from_iterable(every), self.stream)
            except NoStreamResponseError as error:
                raise TryLater(f"no stream of the server has the subject {self.subject}") from error
            except (Error, OSError, TimeoutError) as error:
                reason = credentials.hidden(password.hidden(reason_of(error)))
                login = re.search("authoriz|authentic", reason, re.IGNORECASE)
                wait = FIX_SECONDS if login else None
                raise TryLater(f"{self.servers[0]}: {reason}", wait) from error

        try:
            yield send
        finally:
            await link.close()

    def _credentials_text(self) -> str:
        return credentials_text("credentials_file", self.credentials_file, CREDENTIALS)


@dataclass(frozen=True, slots=True)
class _Message:
    subject: str
    payload: bytes
    samples: int
    """The samples of its readings, by its share of the lines."""

    def lines(self) -> list[_Message]:
        """Return its lines as messages, nothing where it has only one."""
        each = self.payload.splitlines(keepends=True)
        size = len(self.payload)
        return [
            _Message(self.subject, line, -(-self.samples * len(line) // size)) for line in each
        ] * (len(each) > 1)

    @property
    def mark(self) -> str:
        """The message id: equal only for the same message sent again."""
        text = f"{self.subject} ".encode() + self.payload
        return hashlib.blake2b(text, digest_size=16).hexdigest()


class _Messages:
    """The messages of a batch."""

    def __init__(self, subject: str, host: str) -> None:
        self._topics = Topics(subject, host)
        self._lines = Lines(host)

    def of(self, batch: Batch, limit: int) -> Iterator[_Message]:
        """Yield the messages, cut at line ends into payloads of `limit` bytes."""
        for each in by_topic(self._lines, self._topics, batch):
            for payload, samples in each.payloads(limit):
                yield _Message(each.topic, payload, samples)


@dataclass(slots=True)
class _Connection:
    """One connection, which does not reconnect by itself: the outlet decides when."""

    client: Client = field(default_factory=Client)
    faults: list[Exception] = field(default_factory=list)
    unconfirmed: dict[asyncio.Future[PubAck], _Message] = field(default_factory=dict)
    refused: list[tuple[_Message, str]] = field(default_factory=list)
    lines: list[_Message] = field(default_factory=list)
    """What to send line by line, since the stream has refused it together."""

    taken: int = 0
    """How many messages the stream has confirmed, or the server was sent."""

    refusals: list[Exception] = field(default_factory=list)
    refusal: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    stream: JetStreamContext | None = None

    @property
    def limit(self) -> int:
        """The size up to which the server takes messages, without headers."""
        most = self.client.max_payload
        return max(most - HEADER_BYTES, most // 2)

    def alive(self) -> bool:
        """Return whether the connection can be used."""
        return self.client.is_connected and not self.faults

    async def failed(self, error: Exception) -> None:
        """Note an error that the server reported, or the stream of one message."""
        if isinstance(error, BadRequestError):
            self.refusals.append(error)
            self.refusal.set()
        else:
            self.faults.append(error)

    async def ended(self) -> None:
        """Wake waiting calls when the connection is gone; the client itself does not."""
        self.gone.set()

    async def publish(self, messages: Iterable[_Message], stream: str) -> None:
        """
        Publish, and return when the server, or the stream, has all of it.

        A message that is refused takes none of the others with it; Rejected has their samples.
        """
        self.refused.clear()
        self.taken = 0
        try:
            await self._publish_all(messages, stream)
            while lines := self.lines:  # of messages that were too large for the stream
                self.lines = []
                await self._publish_all(lines, stream)
        finally:
            for each in self.unconfirmed:
                each.cancel()
            self.unconfirmed.clear()
            self.lines = []
        if self.refused:
            message, said = self.refused[-1]
            samples = sum(message.samples for message, _ in self.refused)
            raise Rejected(f"subject {message.subject}: {said}", samples if self.taken else None)

    async def _publish_all(self, messages: Iterable[_Message], stream: str) -> None:
        for number, message in enumerate(messages, 1):
            try:
                await self._publish(message, stream)
            except MaxPayloadError:
                self.refused.append((message, "a line is larger than the server's max_payload"))
            if len(self.unconfirmed) >= UNCONFIRMED:
                await self._confirmed()
            elif number % TURN_MESSAGES == 0:
                await asyncio.sleep(0)
        await self._confirmed()

    async def close(self) -> None:
        """Close without waiting for what is still in the buffers."""
        transport = self.client._transport  # noqa: SLF001 - its own close waits for it to drain
        with suppress(Error, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS / 2):
                await self.client.close()
                return
        if transport is not None:
            transport.close()  # type: ignore[no-untyped-call]

    async def _publish(self, message: _Message, stream: str) -> None:
        try:
            if not stream:
                await self.client.publish(message.subject, message.payload)
                self.taken += 1
                return
            if self.stream is None:
                self.stream = self.client.jetstream()
            mark = {"Nats-Msg-Id": message.mark}
            future = await self.stream.publish_async(
                message.subject, message.payload, stream=stream, headers=mark
            )
        except BadSubjectError as error:
            raise Rejected(f"there can be no subject {message.subject}") from error
        self.unconfirmed[future] = message

    async def _confirmed(self) -> None:
        """Wait for the server to read all, then for the stream to confirm; raise what failed."""
        await self._or_gone(self.client.flush(FLUSH_SECONDS))
        if self.faults:
            fault = reason_of(self.faults[0])
            if "permissions violation" in fault.lower():
                raise Denied(f"the server refuses: {fault}")
            raise self.faults[0]
        await self._or_gone(self._answered())
        for future, message in self.unconfirmed.items():
            if not future.done():
                lines = message.lines()
                self.lines += lines
                if not lines:
                    self.refused.append((message, f"{STREAM}: {reason_of(self.refusals[-1])}"))
            elif error := future.exception():
                raise error
            else:
                self.taken += 1
        self.unconfirmed.clear()
        self.refusals.clear()

    async def _answered(self) -> None:
        """
        Wait for the stream's answers to all messages.

        The client raises a refusal without saying of which message; its future is never done.
        """
        while waiting := [each for each in self.unconfirmed if not each.done()]:
            self.refusal.clear()
            if len(waiting) <= len(self.refusals):
                return
            refusal = asyncio.create_task(self.refusal.wait(), name="nats refusal")
            several: list[asyncio.Future[Any]] = [*waiting, refusal]
            try:
                await asyncio.wait(several, return_when=asyncio.FIRST_COMPLETED)
            finally:
                refusal.cancel()

    async def _or_gone(self, answer: Awaitable[object]) -> None:
        """Wait for an answer; raise ConnectionClosedError when the connection ends first."""
        waiting = asyncio.ensure_future(answer)
        gone: asyncio.Future[object] = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait([waiting, gone], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done() or not self.client.is_connected:
                raise ConnectionClosedError
            waiting.result()
        finally:
            waiting.cancel()
            gone.cancel()
            await asyncio.gather(waiting, gone, return_exceptions=True)

    async def _gone(self) -> object:
        return await self.gone.wait()
