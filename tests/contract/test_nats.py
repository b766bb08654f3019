"""The NATS sink, read back from subjects and streams of a real server."""

import platform
import shutil
from pathlib import Path
from typing import Any

import nats
import pytest

from support.certificates import certificate
from support.nats_server import server, stored, stream, url
from support.servers import needs
from virtstatd.errors import Denied, Rejected, TryLater
from virtstatd.formats.json_lines import Lines
from virtstatd.formats.words import word
from virtstatd.model import Batch
from virtstatd.sinks.nats import Nats
from virtstatd.testing import check_sink, hostile_batch, make_batch
from virtstatd.testing.contract import opening


pytestmark = needs("nats-server")

USERS = """
authorization {
  users = [
    {user: agent, password: "right one", permissions: {publish: ["$JS.>", "virtstatd.>"]}}
    {user: guest, password: "other one", permissions: {publish: ["nothing"]}}
  ]
}
"""


def expected(batch: Batch, subject: str = "virtstatd.{host}.{uuid}") -> list[tuple[str, bytes]]:
    """Return the subjects and payloads of a batch."""
    found: dict[str, bytes] = {}
    for reading, text in Lines(platform.node()).readings(batch):
        domain = reading.domain
        full = subject.format(
            host=word(platform.node()),
            uuid=domain.uuid if domain else "host",
            domain=word(domain.name) if domain else "host",
            source=batch.source,
        )
        found[full] = found.get(full, b"") + text.encode()
    return list(found.items())


@pytest.mark.parametrize("batch", [make_batch(3), hostile_batch()], ids=["plain", "hostile"])
async def test_a_stream_keeps_every_line_once(batch: Batch):
    """JetStream has every line of a batch under its subject, once, though it was sent twice."""
    async with server() as (running, _), stream(running) as js:
        async with Nats(servers=(url(running),), stream="VIRT").open(opening()) as send:
            await send(batch)
            await send(batch)
        assert await stored(js) == expected(batch)


async def test_subscribers_get_every_line():
    """Core NATS brings a subscriber every line, under names that no guest can break."""
    batch, subject = hostile_batch(), "a.{domain}.{source}.b"
    found = []
    async with server() as (running, _):
        client = await nats.connect(url(running))
        try:
            subscription = await client.subscribe("a.>")
            await client.flush()
            async with Nats(servers=(url(running),), subject=subject).open(opening()) as send:
                await send(batch)
            for _ in expected(batch, subject):
                message = await subscription.next_msg(timeout=100)
                found.append((message.subject, message.data))
        finally:
            await client.close()
    assert found == expected(batch, subject)


@pytest.mark.parametrize("name", ["", "VIRT"])
async def test_contract_with_a_server_that_comes_and_goes(name: str):
    """The sink keeps the contract while the server is there, killed, or frozen."""
    async with server() as (running, _), stream(running):
        client = await nats.connect(url(running))
        subscription = await client.subscribe("virtstatd.>")

        async def count() -> int:
            await client.flush()
            return subscription.pending_msgs

        try:
            await check_sink(lambda: Nats(servers=(url(running),), stream=name), received=count)
        finally:
            await client.close()
    async with server() as (running, _):
        async with stream(running):
            pass
        await check_sink(
            lambda: Nats(servers=(url(running),), stream=name),
            moods={"later": running.away, "stuck": running.silent},
        )


async def test_credentials_and_permissions(tmp_path: Path):
    """A password is read from its file; a wrong one can be mended, missing rights cost batches."""
    right, wrong, other = (tmp_path / name for name in ("right", "wrong", "other"))
    right.write_text("right one\n")
    wrong.write_text("wrong one\n")
    other.write_text("other one\n")
    async with server(USERS) as (running, _):
        here = (url(running),)
        async with Nats(servers=here, username="agent", password_file=str(right)).open(
            opening()
        ) as send:
            await send(make_batch(2))
        async with Nats(servers=here, username="agent", password_file=str(wrong)).open(
            opening()
        ) as send:
            with pytest.raises(TryLater, match="Authorization") as caught:
                await send(make_batch(2))
            assert "wrong one" not in str(caught.value)
            assert caught.value.after_seconds == 30
        async with Nats(servers=here, username="guest", password_file=str(other)).open(
            opening()
        ) as send:
            with pytest.raises(Denied, match="permissions violation"):
                await send(make_batch(2))


async def test_certificates_that_are_replaced(tmp_path: Path):
    """Both sides show certificates; the next connection has those that are on disk then."""
    file, key = certificate(tmp_path)
    wrong, right = certificate(tmp_path, "wrong"), certificate(tmp_path, "right")
    shown = tmp_path / "agent.crt", tmp_path / "agent.key"
    config = f'tls {{cert_file: "{file}", key_file: "{key}", ca_file: "{right[0]}", verify: true}}'
    async with server(config) as (running, _):
        options: dict[str, Any] = {
            "servers": (f"tls://127.0.0.1:{running.port}",),
            "tls": True,
            "ca_file": str(file),
            "certificate_file": str(shown[0]),
            "key_file": str(shown[1]),
        }
        for source, target in zip(wrong, shown, strict=True):
            shutil.copy(source, target)
        async with Nats(**options, server_name="localhost").open(opening()) as send:
            with pytest.raises(TryLater):
                await send(make_batch(2))
            for source, target in zip(right, shown, strict=True):
                shutil.copy(source, target)
            await send(make_batch(2))
        async with Nats(**options).open(opening()) as send:
            with pytest.raises(TryLater, match=r"certificate is not valid for '127\.0\.0\.1'"):
                await send(make_batch(2))


async def test_a_stream_that_is_not_there():
    """Without a stream for the subject a batch is not delivered, and the reason names it."""
    async with (
        server() as (running, _),
        Nats(servers=(url(running),), stream="VIRT").open(opening()) as send,
    ):
        with pytest.raises(TryLater, match="no stream of the server has the subject"):
            await send(make_batch(1))


async def test_messages_fit_the_server():
    """Lines are parted among messages that the server takes, and none is lost."""
    batch = make_batch(3)
    async with server("max_payload: 4096") as (running, _), stream(running) as js:
        async with Nats(servers=(url(running),), stream="VIRT").open(opening()) as send:
            await send(batch)
        found = [data for _, data in await stored(js)]
    assert len(found) > 0
    assert b"".join(found) == b"".join(Lines(platform.node()).pieces(batch))


async def test_a_line_that_is_too_long_loses_only_itself():
    """What the server takes arrives, though the batch has a line that it refuses."""
    batch = hostile_batch()
    async with server("max_payload: 600") as (running, _):
        client = await nats.connect(url(running))
        try:
            subscription = await client.subscribe("virtstatd.>")
            await client.flush()
            async with Nats(servers=(url(running),)).open(opening()) as send:
                with pytest.raises(Rejected, match="max_payload"):
                    await send(batch)
            await client.flush()
            arrived = subscription.pending_msgs
            lines = [(await subscription.next_msg()).data for _ in range(arrived)]
        finally:
            await client.close()
    text = b"".join(Lines(platform.node()).pieces(batch)).splitlines(keepends=True)
    came = b"".join(lines).splitlines(keepends=True)
    assert sorted(came) == sorted(each for each in text if len(each) <= 600)
    assert 0 < len(lines) < len(text)


async def test_what_a_stream_refuses_loses_only_itself():
    """Of a batch the stream has all lines but those that exceed its limit, which are named."""
    batch = hostile_batch()
    async with server() as (running, _), stream(running, max_msg_size=500) as js:
        async with Nats(servers=(url(running),), stream="VIRT").open(opening()) as send:
            with pytest.raises(Rejected, match=r"virtstatd.*: the stream refuses") as caught:
                await send(batch)
            assert caught.value.samples
            assert 0 < caught.value.samples < batch.samples
        found = {line for _, data in await stored(js) for line in data.splitlines(keepends=True)}
    # the mark of duplicates counts as well, so that near the limit either may be
    lines = b"".join(Lines(platform.node()).pieces(batch)).splitlines(keepends=True)
    assert found >= {line for line in lines if len(line) < 300}
    assert found <= {line for line in lines if len(line) <= 500}
    assert len(found) < len(lines)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"servers": ()}, "servers: must have at least 1"),
        ({"servers": ("localhost",)}, "servers: must be URLs"),
        ({"servers": ("nats://u:p@localhost",)}, "password_file"),
        ({"subject": "a b"}, "subject: must be levels"),
        ({"subject": "a..b"}, "subject: must be levels"),
        ({"subject": "a.*"}, "subject: must be levels"),
        ({"subject": "a.{vm}"}, r"subject: unknown \{vm\}, known: \{host\}"),
        ({"subject": "a.{domain"}, "subject: must be levels"),
        ({"username": "u"}, "password_file: username and"),
        ({"ca_file": "/a"}, "ca_file: needs tls"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], fault: str):
    """Options that cannot work are refused with the name of the option."""
    with pytest.raises(ValueError, match=fault) as caught:
        Nats(**options)
    assert "u:p" not in str(caught.value)
