"""The MQTT sink, read back from mosquitto."""

import asyncio
import gc
import platform
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from support.certificates import certificate
from support.mosquitto import broker, client
from support.servers import Server, needs, place
from virtstatd.errors import Denied, Rejected, TryLater
from virtstatd.formats.json_lines import Lines
from virtstatd.formats.words import word
from virtstatd.model import Batch, Reading, Series, Shape
from virtstatd.sinks.mqtt import CONNECTIONS, FORGET_NS, Mqtt, _Messages
from virtstatd.testing import TAKEN_AT, check_sink, hostile_batch, make_batch, make_domain
from virtstatd.testing.contract import opening


pytestmark = needs("mosquitto")


def address(running: Server) -> str:
    """Return where the broker is."""
    return f"127.0.0.1:{running.port}"


async def received(reader: aiomqtt.Client, count: int) -> list[tuple[str, bytes]]:
    """Return so many messages."""
    found: list[tuple[str, Any]] = []
    async with asyncio.timeout(100):
        while len(found) < count:
            message = await anext(reader.messages)
            found.append((str(message.topic), message.payload))
    return found


def expected(batch: Batch, *, grouped: bool = False) -> list[tuple[str, bytes]]:
    """Return the topics and payloads of a batch."""
    found: dict[str, bytes] = {}
    for reading, text in Lines(platform.node()).readings(batch):
        whose = word(reading.domain.name) if reading.domain else "host"
        topic = f"virtstatd/{word(platform.node())}/{whose}"
        if grouped:
            topic += f"/{reading.shape.group}"
        found[topic] = found.get(topic, b"") + text.encode()
    return list(found.items())


@pytest.mark.parametrize("batch", [make_batch(3), hostile_batch()], ids=["plain", "hostile"])
async def test_subscribers_get_every_line(batch: Batch):
    """A subscriber gets every reading once, in one message per guest, whatever the names."""
    wanted = expected(batch)
    async with broker() as (running, _), client(running) as reader:
        await reader.subscribe("virtstatd/#", qos=2)
        async with Mqtt(address=address(running)).open(opening()) as send:
            await send(batch)
        found = await received(reader, len(wanted))
    assert sorted(found) == sorted(wanted)


async def test_several_connections_carry_a_train():
    """What is sent at once goes over connections of its own, as many as calls; all of it comes."""
    batches = [make_batch([make_domain(number)]) for number in range(CONNECTIONS)]
    async with broker() as (running, _), client(running) as reader:
        await reader.subscribe("virtstatd/#", qos=2)
        async with Mqtt(address=address(running)).open(opening()) as send:
            for _ in range(2):
                await asyncio.gather(*(send(each) for each in batches))
        wanted = [each for batch in batches for each in expected(batch)]
        assert sorted(await received(reader, 2 * len(wanted))) == sorted(2 * wanted)


async def test_what_is_retained_is_current():
    """Who comes later gets the last reading of guests that run, and nothing of those that ended."""
    batch = make_batch(3)
    ended = batch.readings[0].domain
    assert ended
    async with broker() as (running, _):
        async with Mqtt(address=address(running), retain=True).open(opening()) as send:
            await send(make_batch(3, base=7))
            await send(batch)
            await send(Batch("bulk", 0, (), gone=(ended,)))
            await send(Batch("agent", 0, (), gone=(ended,)))
        left = replace(
            batch, readings=tuple(each for each in batch.readings if each.domain != ended)
        )
        async with client(running) as reader:
            await reader.subscribe("virtstatd/#")
            await reader.publish("virtstatd/end", b"end")
            found = await received(reader, len(left.readings) + 1)
    assert sorted(found[:-1]) == sorted(expected(left, grouped=True))
    assert found[-1] == ("virtstatd/end", b"end")


async def test_contract_with_a_broker_that_comes_and_goes():
    """The sink keeps the contract while the broker is there, killed, or frozen."""
    async with broker() as (running, _):

        async def retained() -> list[tuple[str, bytes]]:
            async with client(running) as reader:
                await reader.subscribe("virtstatd/#")
                await reader.publish("virtstatd/end", b"end")
                found = await received(reader, 1)
                while found[-1][0] != "virtstatd/end":
                    found += await received(reader, 1)
                return found

        await check_sink(
            lambda: Mqtt(address=address(running), retain=True),
            received=retained,
            moods={"later": running.away, "stuck": running.silent},
        )


async def test_credentials_and_rights(tmp_path: Path):
    """A password is read from its file; a wrong one can be mended, missing rights cost batches."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("right one\n")
    wrong.write_text("wrong one\n")
    with place() as directory:
        passwords, acl = directory / "passwords", directory / "acl"
        acl.write_text("user agent\ntopic write virtstatd/#\n")
        making = await asyncio.create_subprocess_exec(
            *("mosquitto_passwd", "-b", "-c", str(passwords), "agent", "right one"),
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert await making.wait() == 0
        more = f"password_file {passwords}\nacl_file {acl}\n"
        async with broker(more) as (running, _):
            here: dict[str, Any] = {"address": address(running), "username": "agent"}
            async with Mqtt(**here, password_file=str(right)).open(opening()) as send:
                await send(make_batch(2))
            async with Mqtt(**here, password_file=str(wrong)).open(opening()) as send:
                with pytest.raises(TryLater, match="Not authorized") as caught:
                    await send(make_batch(2))
                assert "wrong one" not in str(caught.value)
                assert caught.value.after_seconds == 30
            sink = Mqtt(**here, password_file=str(right), topic="elsewhere/{uuid}")
            async with sink.open(opening()) as send:
                # one message: with more under way mosquitto resets the connection
                one = replace(make_batch(1), readings=make_batch(1).readings[:1])
                with pytest.raises(Denied, match="Not authorized"):
                    await send(one)


# the library leaves the socket of a handshake that has failed to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
async def test_a_broker_that_shows_its_certificate(tmp_path: Path):
    """Through TLS a batch goes to the broker with the right certificate, and to no other."""
    file, key = certificate(tmp_path)
    async with broker(f"certfile {file}\nkeyfile {key}\n") as (running, _):
        here = f"localhost:{running.port}"
        async with Mqtt(address=here, tls=True, ca_file=str(file)).open(opening()) as send:
            await send(make_batch(2))
        async with Mqtt(address=here, tls=True).open(opening()) as send:
            with pytest.raises(TryLater, match="certificate verify failed"):
                await send(make_batch(2))
    gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
async def test_a_client_certificate_that_is_replaced(tmp_path: Path):
    """A broker wants a certificate, and gets the new one as soon as it is on disk."""
    file, key = certificate(tmp_path)
    wrong, right = certificate(tmp_path, "wrong"), certificate(tmp_path, "right")
    shown = tmp_path / "agent.crt", tmp_path / "agent.key"
    more = f"cafile {right[0]}\ncertfile {file}\nkeyfile {key}\nrequire_certificate true\n"
    async with broker(more) as (running, _):
        sink = Mqtt(
            address=address(running),
            tls=True,
            ca_file=str(file),
            certificate_file=str(shown[0]),
            key_file=str(shown[1]),
            server_name="localhost",
        )
        for source, target in zip(wrong, shown, strict=True):
            shutil.copy(source, target)
        async with sink.open(opening()) as send:
            with pytest.raises(TryLater):
                await send(make_batch(2))
            for source, target in zip(right, shown, strict=True):
                shutil.copy(source, target)
            await send(make_batch(2))
    gc.collect()


async def test_version_3_1_1():
    """An older broker gets the same messages by MQTT 3.1.1, and a wrong login is for later."""
    batch = make_batch(3)
    async with broker() as (running, _), client(running) as reader:
        await reader.subscribe("virtstatd/#", qos=2)
        async with Mqtt(address=address(running), protocol="3.1.1").open(opening()) as send:
            await send(batch)
        wanted = expected(batch)
        assert sorted(await received(reader, len(wanted))) == sorted(wanted)
    async with (
        broker("password_file /dev/null\nallow_anonymous false\n") as (running, _),
        Mqtt(address=address(running), protocol="3.1.1").open(opening()) as send,
    ):
        with pytest.raises(TryLater, match="Not authorized") as caught:
            await send(batch)
    assert caught.value.after_seconds == 30


async def test_a_broker_that_takes_small_packets():
    """Readings come in packets of whole lines; one line that is too large is lost and named."""
    batch = make_batch(3)
    first = batch.readings[0]
    series = Series(first.shape.series[0].field, (("x", "y" * 3000),))
    wide = Reading(first.domain, Shape("wide", (series,)), (1,))
    more = replace(batch, readings=(wide, *batch.readings))
    async with broker("max_packet_size 2000\n") as (running, _), client(running) as reader:
        await reader.subscribe("virtstatd/#", qos=2)
        async with Mqtt(address=address(running)).open(opening()) as send:
            with pytest.raises(Rejected, match="a line is larger than the broker") as caught:
                await send(more)
            assert caught.value.samples == 1
            await send(batch)
        wanted = Counter(line for _, text in expected(batch) for line in text.splitlines())
        found: Counter[bytes] = Counter()
        while sum(found.values()) < 2 * sum(wanted.values()):
            ((_, payload),) = await received(reader, 1)
            assert len(payload) <= 2000
            found.update(payload.splitlines())
    assert found == wanted + wanted


def test_guests_that_never_ended_are_forgotten():
    """The topics of guests whose end was never delivered are forgotten after an hour."""
    messages = _Messages("{uuid}/{group}", "h", retain=True)
    for number in range(3):
        batch = make_batch([make_domain(number)], taken_at=TAKEN_AT + number * (FORGET_NS // 4))
        assert len(list(messages.of(batch, 1 << 20))) == len(batch.readings)
    assert len(messages._retained) == 3
    late = make_batch([make_domain(9)], taken_at=TAKEN_AT + 3 * FORGET_NS)
    list(messages.of(late, 1 << 20))
    assert {domain.uuid for domain in messages._retained} == {make_domain(9).uuid}


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"address": "localhost"}, "address: must be host:port"),
        ({"address": ":1883"}, "address: must be host:port"),
        ({"topic": "/a"}, "topic: must be levels"),
        ({"topic": "a/+"}, "topic: must be levels"),
        ({"topic": "a/{vm}"}, r"topic: unknown \{vm\}"),
        ({"username": "u"}, "password_file: username and"),
        ({"ca_file": "/a"}, "ca_file: needs tls"),
        ({"retain": True, "protocol": "3.1.1"}, "retain: needs protocol = 5"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], fault: str):
    """Options that cannot work are refused with the name of the option."""
    with pytest.raises(ValueError, match=fault):
        Mqtt(**options)
