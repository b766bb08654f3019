"""
MQTT 5 or 3.1.1: a message per guest and batch, confirmed with QoS 1, of JSON lines.

The lines are shown in `formats/json_lines.py`. What a batch has for one topic is one message. A
broker has a limit of unconfirmed messages per connection, often 20, so what is more than one
request goes over several connections at once, by guest. With `retain`, which needs MQTT 5, the
broker keeps the last message of every topic for as long as its numbers may be shown as current; the
topics of a guest that has ended are emptied at once. A broker that says which size it takes gets a
message in parts, of whole lines. A line that is larger nevertheless is lost alone.
"""

from __future__ import annotations

import asyncio
import functools
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, ClassVar, Final, Literal, cast

import aiomqtt
from msgspec import Meta
from paho.mqtt.client import Client as Paho
from paho.mqtt.client import ConnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.formats.json_lines import Lines
from virtstatd.formats.topics import Topics, TopicText, by_topic, check_template
from virtstatd.model import Domain
from virtstatd.sending.address import check_server, split_address
from virtstatd.sending.link import FIX_SECONDS, KeptConnection, quieten, reason_of
from virtstatd.sending.named import ByHost, Named
from virtstatd.sending.secrets import Login, opened_secret
from virtstatd.sending.tls import Tls, renewed_tls
from virtstatd.sink import Batch, Delivery, Opening, Send, Trains


ANSWER_SECONDS = 3.0
"""Time for the broker to accept a connection or its end; messages have the attempt's time."""

CLOSE_SECONDS = 9.0
"""Time to close: to finish connecting, and to disconnect."""

VERSIONS: Final = {"5": aiomqtt.ProtocolVersion.V5, "3.1.1": aiomqtt.ProtocolVersion.V311}

LOGIN = (0x86, 0x87, 0x8C)
"""Reason codes of refused logins: user or password, not authorized, method."""

OVERHEAD_BYTES = 32
"""More than what is in a packet beside topic and payload."""

UNLIMITED = 1 << 28
"""Bytes that the protocol allows in a packet."""

FORGET_NS = 3600 * 10**9
"""Time after which the topics of a guest from which nothing comes any more are forgotten."""

TOPIC: Final = "virtstatd/{host}/{domain}"
RETAINED_TOPIC: Final = "virtstatd/{host}/{domain}/{group}"
"""The default where messages are retained: the last one of each group is kept."""

CONNECTIONS: Final = 4
"""Most connections at once."""

UNCONFIRMED = 256
"""Messages handed over at once; the library sends as many as the broker allows, often twenty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt(Named, Login, Tls):
    """Publish a message of JSON lines per guest and batch to an MQTT broker, with QoS 1."""

    address: Annotated[str, Meta(description="Host and port of the broker.")] = "127.0.0.1:1883"
    protocol: Annotated[
        Literal["5", "3.1.1"],
        Meta(description="Version of the protocol; only 5 reports why a message is refused."),
    ] = "5"
    topic: Annotated[
        str,
        Meta(
            description="Topic of a reading; `{host}`, `{source}`, `{group}`, `{domain}` and"
            " `{uuid}` are filled in, and what a batch has for one topic is one message. Empty is"
            f" `{TOPIC}`, or `{RETAINED_TOPIC}` with `retain`."
        ),
    ] = ""
    retain: Annotated[
        bool, Meta(description="Have the broker keep the last message of every topic.")
    ] = False

    delivery: ClassVar[Delivery] = "memory"
    records: ClassVar[bool] = True
    trains: ClassVar[Trains] = Trains(2_000, lanes=CONNECTIONS)

    def __post_init__(self) -> None:
        check_server("address", self.address)
        check_template("topic", self.filled_topic, "/")
        self.check_login()
        self.check_tls(tls=self.tls)
        if self.retain and self.protocol != "5":
            raise ValueError("retain: needs protocol = 5, in which what is retained expires")

    @property
    def filled_topic(self) -> str:
        """The topic, or the default."""
        return self.topic or (RETAINED_TOPIC if self.retain else TOPIC)

    def check_here(self) -> None:
        """Raise StartError when the password or a file of TLS cannot be used."""
        self.check_password()
        self.check_tls_files(tls=self.tls)

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Connect with the first batch."""
        quieten("mqtt")
        context = await self.opened_tls(tls=self.tls)
        password = await opened_secret(self.password_file)

        async def connect() -> _Session:
            client = _Client(
                self.address,
                self.username,
                await password.read(at_once=True),
                await renewed_tls(context),
                self.protocol,
            )
            return _Session(client)

        topic, retain = self.filled_topic, self.retain
        messages = ByHost(self.host, lambda host: _Messages(topic, host, retain=retain))
        links = [
            KeptConnection(connect, _Session.close, _Session.alive, CLOSE_SECONDS)
            for _ in range(CONNECTIONS)
        ]
        free = links.copy()

        async def send(*batches: Batch) -> None:
            link = free.pop(0)  # there are as many as calls at once
            try:
                async with link.held() as session:
                    every = functools.partial(_every, messages(), batches)
                    refused = await session.publish(every)
            except (aiomqtt.MqttError, OSError) as error:
                login = isinstance(error, aiomqtt.MqttCodeError) and error.rc in LOGIN
                wait = FIX_SECONDS if login else None
                reason = password.hidden(f"{self.address}: {reason_of(error)}")
                raise TryLater(reason, wait) from error
            finally:
                free.insert(0, link)
            if refused:
                raise refused

        try:
            yield send
        finally:
            await asyncio.gather(*(link.close() for link in links))


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    payload: bytes
    retain: bool
    properties: Properties | None
    samples: int = 0
    """The samples of its readings, by its share of the lines."""


class _Messages:
    """The messages of a batch; remembers retained topics until their guest ends."""

    def __init__(self, template: str, host: str, *, retain: bool) -> None:
        self._topics = Topics(template, host)
        self._lines = Lines(host)
        self._retain = retain
        self._retained: dict[Domain, set[str]] = {}
        self._filled_by: dict[str, Domain] = {}
        self._seen: dict[Domain, int] = {}
        self._forgot_at = 0

    def of(self, batch: Batch, limit: int) -> Iterator[_Message]:
        """
        Yield the messages of each topic, and an empty one for each topic of a guest that ended.

        Packets have `limit` bytes at most, except for those of a line that has more.
        """
        properties = None
        if self._retain:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = max(1, math.ceil(batch.lifetime_seconds))
        for each in by_topic(self._lines, self._topics, batch):
            if self._retain:
                self._keep(each, batch.taken_at)
            room = UNLIMITED if self._retain else max(1, limit - OVERHEAD_BYTES - len(each.topic))
            for payload, samples in each.payloads(room):
                yield _Message(each.topic, payload, self._retain, properties, samples)
        for domain in batch.gone:
            for topic in sorted(self._retained.get(domain, ())):
                yield _Message(topic, b"", retain=True, properties=properties)
            for topic in self._retained.pop(domain, ()):
                del self._filled_by[topic]
        self._forget(batch.taken_at)

    def _keep(self, text: TopicText, now: int) -> None:
        """Remember whose topic this is now."""
        for domain in text.domains:
            if (last := self._filled_by.get(text.topic, domain)) != domain:
                self._retained.get(last, set()).discard(text.topic)  # of the one before
            self._filled_by[text.topic] = domain
            self._retained.setdefault(domain, set()).add(text.topic)
            self._seen[domain] = now

    def _forget(self, now: int) -> None:
        """Forget guests whose end was never delivered; their messages have expired by now."""
        if now - self._forgot_at > FORGET_NS:
            self._forgot_at = now
            self._seen = {
                domain: seen
                for domain, seen in self._seen.items()
                if domain in self._retained and now - seen <= FORGET_NS
            }
            self._retained = {domain: self._retained[domain] for domain in self._seen}
            self._filled_by = {
                topic: domain for domain, topics in self._retained.items() for topic in topics
            }


def _every(messages: _Messages, batches: Iterable[Batch], limit: int) -> Iterator[_Message]:
    """Yield the messages of batches, none of more bytes than the broker takes."""
    return chain.from_iterable(messages.of(batch, limit) for batch in batches)


class _ForgivingLoop:
    """
    The event loop for the library, which registers sockets from the thread that connects.

    One that was closed before its turn came is no fault of the loop's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> object:
        """Have the loop call soon, and ignore that a descriptor is not there any more."""

        def call() -> None:
            with suppress(OSError):
                callback(*args)

        return self._loop.call_soon_threadsafe(call)


class _Client(aiomqtt.Client):
    """
    A client that publishes without a task per message and checks the broker's reason codes.

    The library's own `publish` makes several tasks per message and ignores the reason code.
    """

    def __init__(
        self,
        address: str,
        username: str,
        password: str,
        context: ssl.SSLContext | None,
        protocol: str,
    ) -> None:
        host, port = split_address(address)
        super().__init__(
            host,
            port,
            username=username or None,
            password=password or None,
            protocol=VERSIONS[protocol],
            tls_context=context,
            timeout=ANSWER_SECONDS,
            # small messages must not wait for the answers to those before
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        self._loop = cast("asyncio.AbstractEventLoop", _ForgivingLoop(self._loop))
        self.limit = UNLIMITED
        self.fault: Exception | None = None
        """What failed for all messages alike."""

        self.refused: list[tuple[_Message, str]] = []
        self._unconfirmed: dict[int, _Message] = {}
        self._changed = asyncio.Event()

    def hand_over(self, message: _Message) -> None:
        """Queue a message to be sent as soon as the broker allows."""
        handed = self._client.publish(
            message.topic, message.payload, 1, message.retain, message.properties
        )
        if handed.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(handed.rc, "Could not publish message")
        self._unconfirmed[handed.mid] = message

    async def confirmed(self) -> None:
        """Return when the broker has answered all messages, or when one failed as all would."""
        while self._unconfirmed and self.fault is None:
            self._changed.clear()
            await self._changed.wait()

    def _on_connect(
        self,
        client: Paho,
        userdata: object,
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.limit = getattr(properties, "MaximumPacketSize", UNLIMITED)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self,
        client: Paho,
        userdata: object,
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        del client, userdata, properties
        message = self._unconfirmed.pop(mid, None)
        if reason_code.is_failure:
            fault = _refusal(reason_code)
            if type(fault) is Rejected and message is not None:
                self.refused.append((message, str(fault)))
            else:
                self.fault = fault
        if not self._unconfirmed or self.fault is not None:
            self._changed.set()


class _Session:
    """One connection from its beginning to its end."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        # a thread connects: it cannot be cancelled, and what it has opened must be closed
        self._entering = asyncio.create_task(self._enter(), name="mqtt connecting")
        self._gone = asyncio.create_task(self._listen(), name="mqtt listening")

    def alive(self) -> bool:
        """Return whether the connection can be used."""
        return not self._gone.done()

    async def publish(self, messages: Callable[[int], Iterator[_Message]]) -> Rejected | None:
        """
        Publish messages of a size that the broker takes, until it has answered all.

        Returns what it has refused of them.
        """
        await asyncio.shield(self._entering)
        client = self._client
        client.refused.clear()
        taken = 0
        following = messages(client.limit)
        while chunk := list(islice(following, UNCONFIRMED)):
            taken += len(chunk)
            for message in chunk:
                size = len(message.payload) + len(message.topic) + OVERHEAD_BYTES
                if size > client.limit:
                    client.refused.append((message, "a line is larger than the broker takes"))
                else:
                    client.hand_over(message)
            waiting = asyncio.create_task(client.confirmed(), name="mqtt confirmations")
            try:
                await asyncio.wait([waiting, self._gone], return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            # looked at first, since brokers may end a connection with it
            if client.fault is not None:
                raise client.fault
            if self._gone.done():
                raise aiomqtt.MqttError("the connection was lost")
        if client.refused:
            message, said = client.refused[-1]
            samples = sum(message.samples for message, _ in client.refused)
            reason = f"topic {message.topic}: {said}"
            return Rejected(reason, samples if len(client.refused) < taken else None)
        return None

    async def close(self) -> None:
        """Disconnect, and close the socket even if that fails."""
        await asyncio.wait([self._entering])
        self._gone.cancel()
        try:
            if not self._entering.exception():
                await self._client.__aexit__(None, None, None)
        finally:
            # neither a broker that does not answer nor a full buffer may keep the socket open
            self._client._client._sock_close()  # noqa: SLF001

    async def _enter(self) -> None:
        await self._client.__aenter__()

    async def _listen(self) -> None:
        """Return when the connection ends: no topic is subscribed, so no message comes."""
        await asyncio.wait([self._entering])
        if self._entering.exception():
            return
        with suppress(aiomqtt.MqttError):
            async for _ in self._client.messages:
                pass


def _refusal(reason: ReasonCode) -> Exception:
    """Return the exception for a reason code (MQTT 5, section 2.4)."""
    said = f"the broker refuses: {reason}"
    match reason.value:
        case 0x80 | 0x83:  # an error of its own, which it does not name
            return TryLater(said, answered=True)
        case 0x97:  # a quota is exceeded
            return TryLater(said)
        case 0x87:
            return Denied(said)
        case 0x95:
            return TooLarge(said)
        case _:
            return Rejected(said)
