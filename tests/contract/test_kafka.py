"""The Kafka sink, consumed from the brokers of librdkafka's mock cluster."""

import platform
from typing import Any, Literal

import pytest

from support.kafka import cluster
from virtstatd.errors import Denied, Rejected, TryLater
from virtstatd.formats.json_lines import Lines
from virtstatd.model import Batch
from virtstatd.sinks.kafka import Kafka
from virtstatd.testing import TAKEN_AT, check_sink, hostile_batch, make_batch
from virtstatd.testing.contract import opening


NO_LEADER = 5


def expected(batch: Batch) -> dict[bytes, bytes]:
    """Return the lines of each guest by its key."""
    found: dict[bytes, bytes] = {}
    for reading, text in Lines(platform.node()).readings(batch):
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
