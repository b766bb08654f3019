"""
MQTT 5: a message per reading, confirmed with QoS 1, of JSON lines (`formats/json_lines.py`).

With `retain` the broker keeps the last message of every topic for as long as its numbers may be
shown as current; the topics of a guest that has ended are emptied at once.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, ClassVar

import aiomqtt
from msgspec import Meta
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.formats.json_lines import Lines
from virtstatd.formats.topics import Topics, check_template
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

LOGIN = (0x86, 0x87, 0x8C)
"""Reason codes of refused logins: user or password, not authorized, method."""

UNCONFIRMED = 256
"""Messages handed over at once; the library sends as many as the broker allows, often twenty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt(Named, Login, Tls):
    """Publish every reading to an MQTT 5 broker as JSON lines, with QoS 1."""

    address: Annotated[str, Meta(description="Host and port of the broker.")] = "127.0.0.1:1883"
    topic: Annotated[
        str,
        Meta(
            description="Topic of a reading; `{host}`, `{source}`, `{group}`, `{domain}` and"
            " `{uuid}` are filled in."
        ),
    ] = "virtstatd/{host}/{domain}/{group}"
    retain: Annotated[
        bool, Meta(description="Have the broker keep the last message of every topic.")
    ] = False

    delivery: ClassVar[Delivery] = "memory"
    trains: ClassVar[Trains] = Trains(2_000)

    def __post_init__(self) -> None:
        check_server("address", self.address)
        check_template("topic", self.topic, "/")
        self.check_login()
        self.check_tls(tls=self.tls)

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
            )
            return _Session(client)

        messages = ByHost(self.host, lambda host: _Messages(self.topic, host, retain=self.retain))
        link = KeptConnection(connect, _Session.close, _Session.alive, CLOSE_SECONDS)

        async def send(*batches: Batch) -> None:
            try:
                async with link.held() as session:
                    await session.publish(chain.from_iterable(map(messages().of, batches)))
            except (aiomqtt.MqttError, OSError) as error:
                refused = isinstance(error, aiomqtt.MqttCodeError) and error.rc in LOGIN
                wait = FIX_SECONDS if refused else None
                reason = password.hidden(f"{self.address}: {reason_of(error)}")
                raise TryLater(reason, wait) from error

        try:
            yield send
        finally:
            await link.close()


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    payload: bytes
    retain: bool
    properties: Properties


class _Messages:
    """The messages of a batch; remembers retained topics until their guest ends."""

    def __init__(self, template: str, host: str, *, retain: bool) -> None:
        self._topics = Topics(template, host)
        self._lines = Lines(host)
        self._retain = retain
        self._retained: dict[Domain, set[str]] = {}

    def of(self, batch: Batch) -> Iterator[_Message]:
        """Yield a message per reading, and an empty one for each topic of a guest that ended."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if self._retain:
            properties.MessageExpiryInterval = max(1, math.ceil(batch.lifetime_seconds))
        for reading, text in self._lines.readings(batch):
            topic = self._topics.of(reading, batch.source)
            if self._retain and reading.domain:
                self._retained.setdefault(reading.domain, set()).add(topic)
            yield _Message(topic, text.encode(), self._retain, properties)
        for domain in batch.gone:
            for topic in sorted(self._retained.get(domain, ())):
                yield _Message(topic, b"", retain=True, properties=properties)
            self._retained.pop(domain, None)


class _Client(aiomqtt.Client):
    """
    A client that publishes without a task per message and checks the broker's reason codes.

    The library's own `publish` makes several tasks per message and ignores the reason code.
    """

    def __init__(
        self, address: str, username: str, password: str, context: ssl.SSLContext | None
    ) -> None:
        host, port = split_address(address)
        super().__init__(
            host,
            port,
            username=username or None,
            password=password or None,
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=context,
            timeout=ANSWER_SECONDS,
            # small messages must not wait for the answers to those before
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        self.refused: ReasonCode | None = None
        self._unconfirmed: set[int] = set()
        self._changed = asyncio.Event()

    def hand_over(self, message: _Message) -> None:
        """Queue a message to be sent as soon as the broker allows."""
        handed = self._client.publish(
            message.topic, message.payload, 1, message.retain, message.properties
        )
        if handed.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(handed.rc, "Could not publish message")
        self._unconfirmed.add(handed.mid)

    async def confirmed(self) -> None:
        """Return when the broker has confirmed all messages, or refused one."""
        while self._unconfirmed and self.refused is None:
            self._changed.clear()
            await self._changed.wait()

    def _on_publish(
        self,
        client: Paho,
        userdata: object,
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        del client, userdata, properties
        if reason_code.is_failure:
            self.refused = reason_code
        self._unconfirmed.discard(mid)
        if not self._unconfirmed or self.refused is not None:
            self._changed.set()


class _Session:
    """One connection from its beginning to its end."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        # a thread connects: it cannot be cancelled, and what it has opened must be closed
        self._entering = asyncio.create_task(self._enter(), name="mqtt connecting")
        self._gone = asyncio.create_task(self._listen(), name="mqtt listening")

    def alive(self) -> bool:
        """Tell whether the connection can be used."""
        return not self._gone.done()

    async def publish(self, messages: Iterator[_Message]) -> None:
        """Publish, and return when the broker has confirmed all."""
        await asyncio.shield(self._entering)
        while chunk := list(islice(messages, UNCONFIRMED)):
            for message in chunk:
                self._client.hand_over(message)
            waiting = asyncio.create_task(self._client.confirmed(), name="mqtt confirmations")
            try:
                await asyncio.wait([waiting, self._gone], return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            # looked at first, since brokers may end a connection with it
            if self._client.refused is not None:
                raise _refusal(self._client.refused)
            if self._gone.done():
                raise aiomqtt.MqttError("the connection was lost")

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
