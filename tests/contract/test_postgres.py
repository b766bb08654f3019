"""The PostgreSQL sink, read back by queries."""

import asyncio
import math
import platform
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.expectations import numbers
from support.ports import free_port
from support.postgres import PASSWORD, database, files, key_of, query, ready, url, visible
from support.servers import Server
from virtstatd.errors import Rejected, TryLater
from virtstatd.model import Batch
from virtstatd.sending.link import FIX_SECONDS
from virtstatd.sinks.postgres import Postgres
from virtstatd.testing import TAKEN_AT, check_sink, hostile_batch, make_batch, make_domain
from virtstatd.testing.contract import opening


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """Make the files of a server."""
    with files() as directory:
        yield directory


@pytest.fixture
async def server(cluster: Path) -> AsyncIterator[Server]:
    """Run a server with nothing but an empty database."""
    async with database(cluster) as running:
        yield running
        await query(running, "DROP TABLE IF EXISTS virtstatd_samples")


@pytest.fixture
def password(tmp_path: Path) -> str:
    """Return a file with the password."""
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return str(path)


async def test_every_number_is_a_row(server: Server, password: str):
    """Each number of a batch is a row with its time, guest, name and labels, exact in value."""
    sink = Postgres(url=url(server), password_file=password, create_table=True)
    for batch in (make_batch(3), hostile_batch()):
        async with sink.open(opening()) as send:
            await send(batch)
        rows = await query(server, "SELECT * FROM virtstatd_samples")
        await query(server, "TRUNCATE virtstatd_samples")
        found = {
            (row["uuid"] and str(row["uuid"]), row["metric"], key_of(row["labels"])): row
            for row in rows
        }
        assert len(rows) == len(found) == batch.samples
        for reading, name, labels, value in numbers(batch):
            domain = reading.domain
            own = dict(labels[len(domain.labels) :] if domain else labels)
            row = found[domain and domain.uuid, name, frozenset(own.items())]
            assert row["domain"] == (domain and visible(domain.name))
            assert row["run"] == (domain and domain.id)
            assert row["host"] == platform.node()
            assert row["time"] == datetime.fromtimestamp(TAKEN_AT // 10**9, UTC).replace(
                microsecond=123456
            )
            assert row["value"] == value or (math.isnan(row["value"]) and math.isnan(value))


async def test_contract_with_a_server_that_comes_and_goes(server: Server, password: str):
    """The sink keeps the contract while the server is there, killed, or frozen."""

    async def count() -> int:
        return int((await query(server, "SELECT count(*) FROM a.samples"))[0][0])

    @asynccontextmanager
    async def away() -> AsyncIterator[None]:
        async with server.away():
            yield
        await ready(server)

    await query(server, "CREATE SCHEMA a")
    sink = Postgres(url=url(server), password_file=password, table="a.samples", create_table=True)
    async with sink.open(opening()) as send:
        await send(make_batch(1))
    await check_sink(
        lambda: sink,
        received=count,
        moods={"later": away, "stuck": server.silent},
    )


async def test_what_the_database_refuses(server: Server, tmp_path: Path, password: str):
    """A row that cannot be costs its whole batch; what can be fixed is tried again."""
    wrong = tmp_path / "wrong"
    wrong.write_text("the wrong one")
    batch = make_batch([replace(make_domain(), id=1 << 40)])
    sink = Postgres(url=url(server), password_file=password)
    async with sink.open(opening()) as send:
        with pytest.raises(TryLater, match='"virtstatd_samples" does not exist'):
            await send(make_batch(1))
    async with replace(sink, create_table=True).open(opening()) as send:
        with pytest.raises(Rejected, match="table virtstatd_samples: ") as refused:
            await send(Batch("bulk", 0, (*make_batch(1).readings, *batch.readings)))
        assert refused.value.atomic
        assert await query(server, "SELECT * FROM virtstatd_samples") == []
        await send(make_batch(1))
    async with replace(sink, password_file=str(wrong)).open(opening()) as send:
        with pytest.raises(TryLater, match="password authentication failed") as caught:
            await send(make_batch(1))
        assert "the wrong one" not in str(caught.value)


STAND_INS = """
CREATE TABLE calls (number serial, call text);
CREATE FUNCTION called(call text) RETURNS integer LANGUAGE sql AS
    $$ INSERT INTO calls (call) VALUES (call) RETURNING number $$;
CREATE FUNCTION create_hypertable(relation regclass, time_column_name name,
    chunk_time_interval interval) RETURNS integer LANGUAGE sql AS
    $$ SELECT called(concat_ws(' ', 'hypertable', relation, time_column_name,
        chunk_time_interval)) $$;
CREATE FUNCTION add_compression_policy(hypertable regclass, compress_after interval)
    RETURNS integer LANGUAGE sql AS
    $$ SELECT called(concat_ws(' ', 'compress', hypertable, compress_after)) $$;
CREATE FUNCTION add_retention_policy(relation regclass, drop_after interval)
    RETURNS integer LANGUAGE sql AS
    $$ SELECT called(concat_ws(' ', 'retain', relation, drop_after)) $$;
"""
"""What TimescaleDB brings, as far as the sink calls it: Debian has no package of it."""

END_OF_STAND_INS = """
DROP TABLE calls;
DROP FUNCTION create_hypertable, add_compression_policy, add_retention_policy, called;
"""


SSL_REQUEST = (80877103).to_bytes(4)


@asynccontextmanager
async def timescale(server: Server) -> AsyncIterator[int]:
    """
    Give the server stand-ins of TimescaleDB's functions, and yield a port that leads to it.

    On the way the options of a table that only TimescaleDB knows become a call as well.
    """

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        writer.close()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to, back = await asyncio.open_connection("127.0.0.1", server.port)
        answering = asyncio.create_task(answers(to, writer))
        kind = b""  # the first messages have none
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(4))
                message = await reader.readexactly(length - 4)
                if kind == b"Q" and b"ALTER TABLE" in message:
                    text = " ".join(message.rstrip(b"\0").decode().split()).replace("'", "''")
                    message = f"SELECT called('{text}')".encode() + b"\0"
                back.write(kind + (len(message) + 4).to_bytes(4) + message)
                if message != SSL_REQUEST:
                    kind = await reader.readexactly(1)
        except asyncio.IncompleteReadError:
            back.close()
            await answering

    await query(server, "SELECT 1", STAND_INS)
    relay = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield relay.sockets[0].getsockname()[1]
    finally:
        relay.close()
        await query(server, "SELECT 1", END_OF_STAND_INS)


async def test_a_hypertable(server: Server, password: str):
    """TimescaleDB's layout is made once, in one transaction, with the policies that were asked."""
    async with timescale(server) as port:
        sink = Postgres(
            url=f"postgresql://virtstatd@127.0.0.1:{port}/postgres",
            password_file=password,
            create_table=True,
            layout="timescale",
            keep_days=90,
        )
        for _ in range(2):
            async with sink.open(opening()) as send:
                await send(make_batch(1))
        calls = sorted(row["call"] for row in await query(server, "SELECT call FROM calls"))
        rows = await query(server, "SELECT count(*) FROM virtstatd_samples")
    assert calls[0] == (
        "ALTER TABLE virtstatd_samples SET ( timescaledb.compress, "
        "timescaledb.compress_segmentby = 'host, uuid, metric', "
        "timescaledb.compress_orderby = 'time' )"
    )
    assert calls[1:] == [
        "compress virtstatd_samples 7 days",
        "hypertable virtstatd_samples time 1 day",
        "retain virtstatd_samples 90 days",
    ]
    assert rows[0][0] == 2 * make_batch(1).samples


async def test_a_hypertable_without_timescale(server: Server, password: str):
    """Where TimescaleDB is not there nothing is made, and the reason names what is missing."""
    sink = Postgres(url=url(server), password_file=password, create_table=True, layout="timescale")
    async with sink.open(opening()) as send:
        with pytest.raises(TryLater, match="function create_hypertable"):
            await send(make_batch(1))
    assert await query(server, "SELECT to_regclass('virtstatd_samples')") == [(None,)]


async def test_agents_that_begin_at_once(server: Server, password: str):
    """Many agents that find no table make one, and none of them has to try again."""
    sink = Postgres(url=url(server), password_file=password, create_table=True)

    async def once() -> None:
        async with sink.open(opening()) as send:
            await send(make_batch(1))

    await asyncio.gather(*(once() for _ in range(8)))
    rows = await query(server, "SELECT count(*) FROM virtstatd_samples")
    assert rows[0][0] == 8 * make_batch(1).samples


async def test_a_user_that_may_insert_and_nothing_else(server: Server, tmp_path: Path):
    """A role without the right to read writes every number, also into columns of other types."""
    await query(
        server,
        "SELECT 1",
        "CREATE TABLE virtstatd_samples (time text, host varchar, domain text, uuid text,"
        " run numeric, metric text, labels json, value numeric)",
        "CREATE ROLE writer LOGIN PASSWORD 'w'",
        "GRANT INSERT ON virtstatd_samples TO writer",
    )
    (tmp_path / "w").write_text("w")
    place = url(server).replace("virtstatd@", "writer@")
    async with Postgres(url=place, password_file=str(tmp_path / "w")).open(opening()) as send:
        await send(hostile_batch())
    rows = await query(server, "SELECT count(*) FROM virtstatd_samples")
    assert rows[0][0] == hostile_batch().samples
    await query(server, "SELECT 1", "DROP OWNED BY writer", "DROP ROLE writer")


async def test_a_partition_that_is_missing_is_waited_for(server: Server, password: str):
    """Rows for which there is no partition wait until it is made, and are all there then."""
    await query(
        server,
        "SELECT 1",
        "CREATE TABLE virtstatd_samples (time timestamptz, host text, domain text, uuid uuid,"
        " run integer, metric text CHECK (metric <> 'x'), labels jsonb, value float8)"
        " PARTITION BY RANGE (time)",
    )
    async with Postgres(url=url(server), password_file=password).open(opening()) as send:
        with pytest.raises(TryLater, match="no partition of relation") as caught:
            await send(make_batch(1))
        assert caught.value.after_seconds == FIX_SECONDS
        await query(
            server,
            "SELECT 1",
            "CREATE TABLE part PARTITION OF virtstatd_samples FOR VALUES FROM ('1970-01-01') TO"
            " ('2100-01-01')",
        )
        await send(make_batch(1))
        await query(server, "SELECT 1", "ALTER TABLE part ADD CHECK (value < -1e300) NOT VALID")
        with pytest.raises(Rejected, match="violates check constraint"):
            await send(make_batch(1))
    assert (await query(server, "SELECT count(*) FROM part"))[0][0] == make_batch(1).samples


async def test_of_two_hosts_the_one_that_is_there(server: Server, password: str):
    """A URL with two hosts leads to the one that takes rows."""
    place = url(server).replace("@", f"@127.0.0.1:{free_port()},")
    async with Postgres(url=place, password_file=password, create_table=True).open(
        opening()
    ) as send:
        await send(make_batch(1))
    rows = await query(server, "SELECT count(*) FROM virtstatd_samples")
    assert rows[0][0] == make_batch(1).samples


async def test_a_server_in_another_role_is_waited_for(server: Server, password: str):
    """Where a standby alone is wanted and none is there, batches wait."""
    sink = Postgres(url=f"{url(server)}?target_session_attrs=standby", password_file=password)
    async with sink.open(opening()) as send:
        with pytest.raises(TryLater, match="standby"):
            await send(make_batch(2))


async def test_no_password_for_a_server_without_tls(password: str, monkeypatch: pytest.MonkeyPatch):
    """Where TLS is wanted, by option or environment, a server that has none gets no password."""
    said = bytearray()

    async def lying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Refuse TLS, ask for a password in clear, and keep all that comes."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)
                said.extend(message)
                if message == SSL_REQUEST:
                    writer.write(b"N")
                    continue
                writer.write(b"R" + (8).to_bytes(4) + (3).to_bytes(4))
                said.extend(await reader.readexactly(1))
        writer.close()

    stub = await asyncio.start_server(lying, "127.0.0.1", 0)
    try:
        place = f"postgresql://u@127.0.0.1:{stub.sockets[0].getsockname()[1]}/x"
        with pytest.raises(ValueError, match="sslmode belongs into the options: tls = true"):
            Postgres(url=f"{place}?sslmode=verify-full", password_file=password)
        for tls, mode in ((True, "prefer"), (False, "require")):
            monkeypatch.setenv("PGSSLMODE", mode)
            async with Postgres(url=place, password_file=password, tls=tls).open(opening()) as send:
                with pytest.raises(TryLater, match="rejected SSL upgrade"):
                    await send(make_batch(1))
        assert PASSWORD.encode() not in said
        monkeypatch.setenv("PGSSLMODE", "prefer")
        async with Postgres(url=place, password_file=password).open(opening()) as send:
            with pytest.raises(TryLater):
                await send(make_batch(1))
        assert PASSWORD.encode() in said  # so the stub would have had it
    finally:
        stub.close()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"url": "http://localhost"}, "url: must be like"),
        ({"ca_file": "/a"}, "ca_file: needs tls"),
        ({"keep_days": 1}, "keep_days: needs layout"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], fault: str):
    """Options that cannot work are refused with the name of the option."""
    with pytest.raises(ValueError, match=fault):
        Postgres(**options)
