"""The archive of Parquet files, read back by DuckDB and by pyarrow."""

import math
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import duckdb
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from structlog.testing import CapturingLogger

from support.markdown import blocks
from support.parquet import MINUTE_NS, archive, found_by_duckdb, settled, source_of
from support.servers import moved, needs
from virtstatd.archive.rows import HOUR_NS
from virtstatd.errors import StartError, TryLater
from virtstatd.model import Batch, Field, Kind, Reading, Series, Shape
from virtstatd.pipeline.spool.segment import HEADER_BYTES, VERSION
from virtstatd.sinks.parquet import Parquet
from virtstatd.testing import TAKEN_AT, check_sink, hostile_batch, make_batch, make_shapes
from virtstatd.testing.contract import opening


START = TAKEN_AT // HOUR_NS * HOUR_NS
"""Where an hour begins."""


def counted(directory: Path) -> int:
    """Return how many rows there are."""
    if not list(directory.glob("*.parquet")):
        return 0
    query = "SELECT count(*) FROM read_parquet(?)"
    return int(duckdb.execute(query, [str(directory / "*.parquet")]).fetchall()[0][0])


def names(directory: Path) -> list[str]:
    """Return what is in an archive, numbers left out."""
    return sorted(
        ".".join("N" if part.isdigit() else part for part in each.name.split("."))
        for each in directory.iterdir()
        if each.name != ".lock"
    )


def minutes(first: int, last: int, hour: int = 0, domains: int = 2) -> Iterator[Batch]:
    """Yield a batch for each minute of an hour."""
    shapes = make_shapes()
    for minute in range(first, last):
        taken_at = START + hour * HOUR_NS + minute * MINUTE_NS
        yield make_batch(domains, shapes=shapes, taken_at=taken_at, base=1000 + minute)


def keep(directory: Path, batches: Sequence[Batch]) -> None:
    """Append batches to an archive, with every flush and every sorting that is due."""
    kept = archive(directory)
    for batch in batches:
        kept.append(batch)
        if kept.flushable.is_set():
            kept.settle()
    kept.close()
    kept.settle()


def events(log: CapturingLogger) -> list[str]:
    """Return what was logged."""
    return [call.args[0] for call in log.calls]


def odd_counters(taken_at: int) -> Batch:
    """Return the numbers that a double rounds, and those around them."""
    edges = [0, 1, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), -1]
    edges += [10**15 - 1, 10**15, 10**15 + 1, 123_456_789, 999_999_999_999_999, 4503599627370497]
    numbers = Shape(
        "edges",
        tuple(
            Series(Field("p", name, Kind.COUNTER, "", "h", exponent), (("at", str(index)),))
            for name, exponent in (("plain", 0), ("nano", -9), ("micro", -6), ("kilo", 3))
            for index, _ in enumerate(edges)
        ),
    )
    return Batch("bulk", taken_at, (Reading(None, numbers, tuple(edges * 4)),))


async def test_every_number_comes_back(tmp_path: Path):
    """DuckDB reads each number with its time, guest, name and labels; whole numbers exactly."""
    batches = [make_batch(3), hostile_batch(), odd_counters(TAKEN_AT + 1)]
    sink = Parquet(directory=str(tmp_path), host="h", free_bytes=0)
    async with sink.open(opening()) as send:
        for batch in batches:
            await send(batch)
    settled(tmp_path)
    assert repr(found_by_duckdb(tmp_path)) == repr(source_of(*batches))  # NaN is not itself


def test_integers_beyond_64_bits_are_doubles(tmp_path: Path):
    """They come back as the nearest double, infinite where it is none, and cost no other number."""
    values = (2**70 + 1, 10**400, -(10**400), 7)
    large = Shape("large", odd_counters(0).readings[0].shape.series[: len(values)])
    keep(tmp_path, [Batch("bulk", START, (Reading(None, large, values),))])
    rows = pq.read_table(next(tmp_path.glob("*.parquet"))).to_pylist()
    assert sorted(row["value"] for row in rows) == [-math.inf, 7, 2.0**70, math.inf]
    assert not any(row["exact"] for row in rows)


def test_the_query_of_the_readme(tmp_path: Path):
    """The query of the README gives the rate of a counter, within an hour and over its end."""
    ((_, query),) = blocks("sql")
    query = query.replace("/var/lib/virtstatd/archive", str(tmp_path))
    query = query.replace("libvirt_domain_vcpu_delay_seconds", "libvirt_domain_vcpu_exits")
    query = query.replace("'web'", "'vm-1'")
    kept = archive(tmp_path)
    for batch in (*minutes(50, 60), *minutes(0, 5, hour=1)):
        kept.append(batch)
    kept.close()
    kept.settle()
    rows = duckdb.execute(f"SELECT delay FROM ({query.rstrip().rstrip(';')})").fetchall()
    rates = [rate for (rate,) in rows]
    assert rates[0] is None
    assert len(rates) == 15
    assert {*rates[1:10], *rates[11:]} == {1_000_003 / 60}


def test_hours_are_sorted_into_one_file(tmp_path: Path):
    """An hour that is over is one file with the same rows, the numbers of a series together."""
    batches = [*minutes(0, 60), *minutes(0, 3, hour=1)]
    keep(tmp_path, batches)
    text = "2023-11-14T22Z"
    assert names(tmp_path)[0] == f"{text}.parquet"
    assert set(names(tmp_path)[1:]) == {"2023-11-14T23Z.N.parquet"}
    assert found_by_duckdb(tmp_path) == source_of(*batches)
    rows = pq.read_table(tmp_path / f"{text}.parquet").select(["series", "time"])
    order = list(zip(*(column.to_pylist() for column in rows.cast(rows.schema)), strict=True))
    assert order == sorted(order)
    query = (
        "SELECT count(DISTINCT series), count(DISTINCT (uuid, metric, labels)) FROM read_parquet(?)"
    )
    [(numbers, series)] = duckdb.execute(query, [str(tmp_path / "*.parquet")]).fetchall()
    assert numbers == series == batches[0].samples


def test_what_comes_late_finds_its_hour(tmp_path: Path):
    """A batch of an hour that was sorted already is sorted into it at the next turn."""
    late = replace(next(minutes(7, 8)), source="late")
    batches = [*minutes(0, 5), *minutes(2, 4, hour=1), late, *minutes(4, 6, hour=1)]
    batches += minutes(2, 4, hour=2)
    keep(tmp_path, batches)
    assert names(tmp_path)[:2] == ["2023-11-14T22Z.parquet", "2023-11-14T23Z.parquet"]
    assert found_by_duckdb(tmp_path) == source_of(*batches)


def test_many_rows_are_sorted_by_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Slices of the series lose and double nothing at their borders."""
    monkeypatch.setattr("virtstatd.archive.sorting.SLICE_ROWS", 300)
    monkeypatch.setattr("virtstatd.archive.archive.GROUP_ROWS", 50)
    kept = archive(tmp_path)
    batches = [*minutes(0, 8, domains=7), next(minutes(2, 3, hour=1))]
    for batch in batches:
        kept.append(batch)
        kept.close()
    kept.settle()
    [whole] = tmp_path.glob("*T22Z.parquet")
    assert pq.ParquetFile(whole).num_row_groups > 5
    assert found_by_duckdb(tmp_path) == source_of(*batches)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 200, -1])
def test_a_torn_journal_costs_its_end_alone(tmp_path: Path, cut: int):
    """Whatever is left of the last batch, those before it are in the archive after a start."""
    before = archive(tmp_path)
    batches = list(minutes(0, 1)) * 2
    before.append(batches[0])
    [journal] = tmp_path.glob(".*.segment")
    whole = journal.stat().st_size
    before.append(batches[1])
    os.truncate(journal, whole + cut if cut >= 0 else journal.stat().st_size - 1)
    archive(tmp_path).settle()
    assert found_by_duckdb(tmp_path) == source_of(batches[0])
    assert names(tmp_path) == ["2023-11-14T22Z.N.parquet"]


def test_a_flipped_bit_in_a_journal_costs_a_batch(tmp_path: Path):
    """A batch that changed on the disk is not taken for one; it is counted, those after it stay."""
    before = archive(tmp_path)
    batches = list(minutes(0, 1)) * 3
    before.append(batches[0])
    [journal] = tmp_path.glob(".*.segment")
    place = journal.stat().st_size + 100
    before.append(batches[1])
    before.append(batches[2])
    content = bytearray(journal.read_bytes())
    content[place] ^= 1
    journal.write_bytes(content)
    log = CapturingLogger()
    archive(tmp_path, log).settle()
    assert found_by_duckdb(tmp_path) == source_of(batches[0], batches[2])
    assert [call.kwargs["reason"] for call in log.calls] == ["1 batches of it are damaged"]
    assert names(tmp_path) == [".N.segment.damaged", "2023-11-14T22Z.N.parquet"]


def test_a_journal_of_a_later_version_is_set_aside(tmp_path: Path):
    """What this version cannot know is neither read nor removed, and the log says it."""
    before = archive(tmp_path)
    before.append(next(minutes(0, 1)))
    [journal] = tmp_path.glob(".*.segment")
    content = bytearray(journal.read_bytes())
    struct.pack_into("<H", content, 8, VERSION + 1)
    struct.pack_into("<I", content, HEADER_BYTES - 4, crc32(content[: HEADER_BYTES - 4]))
    journal.write_bytes(content)
    log = CapturingLogger()
    archive(tmp_path, log).settle()
    assert events(log) == ["archive.damaged"]
    assert names(tmp_path) == [".N.segment.damaged"]


def test_a_batch_that_cannot_be_written_costs_no_other(tmp_path: Path):
    """Those before and after it are in the archive."""
    kept = archive(tmp_path)
    batches = list(minutes(0, 3))
    kept.append(batches[0])
    with pytest.raises(TypeError):
        kept.append(replace(batches[1], lifetime_seconds=object()))  # type: ignore[arg-type]
    kept.append(batches[2])
    kept.close()
    kept.settle()
    assert found_by_duckdb(tmp_path) == source_of(batches[0], batches[2])


STEPS = ("draft", "renamed", "sorted")


@pytest.mark.parametrize("step", STEPS)
def test_every_crash_is_mended(tmp_path: Path, step: str):
    """Whatever an interruption has left, the next run has each row once."""
    kept = archive(tmp_path)
    batches = [*minutes(0, 3), *minutes(2, 3, hour=1)]
    for batch in batches:
        kept.append(batch)
        kept.close()
    journals = {each: each.read_bytes() for each in tmp_path.glob(".*.segment")}
    kept._sorted_before = kept._hour  # flush only
    kept.settle()
    flushes = {each: each.read_bytes() for each in tmp_path.glob("*T22Z.*.parquet")}
    match step:
        case "draft":
            (tmp_path / ".2023-11-14T22Z.parquet.new").write_bytes(b"PAR1 half")
            (tmp_path / ".2023-11-14T22Z.7.parquet.new").write_bytes(b"")
        case "renamed":
            for path, content in journals.items():
                path.write_bytes(content)
        case "sorted":
            kept._sorted_before = None
            kept.settle()
            assert len(flushes) == 3
            for path, content in flushes.items():
                path.write_bytes(content)
    after = archive(tmp_path)
    after.settle()
    assert found_by_duckdb(tmp_path) == source_of(*batches)
    assert not [name for name in names(tmp_path) if not name.endswith("Z.N.parquet")][
        step == "sorted" :
    ]


KILLED = """
import asyncio, sys
from virtstatd.sinks.parquet import Parquet
from virtstatd.testing import make_batch, make_shapes
from virtstatd.testing.contract import opening
async def main():
    shapes = make_shapes()
    sink = Parquet(directory=sys.argv[1], host="h", flush_seconds=1, free_bytes=0)
    async with sink.open(opening()) as send:
        for number in range(10**9):
            taken_at = int(sys.argv[2]) + number * 20 * 10**9
            await send(make_batch(2, shapes=shapes, taken_at=taken_at, base=1000 + number))
            print(number, flush=True)
asyncio.run(main())
"""


def test_a_kill_loses_nothing_that_was_delivered(tmp_path: Path):
    """Killed at any moment, over many hours of batches, the archive has each of them once."""
    begin = START
    for batches in (3, 50, 400):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(begin)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for _ in range(batches):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            confirmed = batches + len(process.stdout.readlines())
        counted(tmp_path)  # whatever state it is in, DuckDB can read it
        archive(tmp_path).settle()
        query = "SELECT metric, labels, uuid, count(*), count(DISTINCT time) FROM read_parquet(?)"
        rows = duckdb.execute(
            f"{query} WHERE epoch_ns(time) >= ? GROUP BY ALL", [str(tmp_path / "*.parquet"), begin]
        ).fetchall()
        assert len(rows) == make_batch(2).samples
        for *_, count, times in rows:
            assert count == times
            assert confirmed <= count <= confirmed + 1  # written, and killed before it was told
        begin += 1000 * HOUR_NS


ENDING = """
import asyncio, sys
from virtstatd.sinks import parquet
from virtstatd.testing import make_batch, make_shapes
from virtstatd.testing.contract import opening
parquet.FLUSH_SECONDS = 0.02  # on a fast machine the usual time would do
async def main():
    shapes = make_shapes(60)
    sink = parquet.Parquet(directory=sys.argv[1], host="h", flush_seconds=3600, free_bytes=0)
    async with sink.open(opening()) as send:
        for number in range(50):
            await send(make_batch(60, shapes=shapes, taken_at=int(sys.argv[2]) + number))
asyncio.run(main())
"""


def test_an_end_waits_for_no_large_flush(tmp_path: Path):
    """What a last flush has no time for is there after the next start; the end is clean."""
    subprocess.run([sys.executable, "-c", ENDING, str(tmp_path), str(START)], check=True)
    assert list(tmp_path.glob(".*.segment"))
    assert not list(tmp_path.glob("*.new"))
    archive(tmp_path).settle()
    assert counted(tmp_path) == 50 * make_batch(60, shapes=make_shapes(60)).samples


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """Mount a disk of that size."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@needs("root")
@pytest.mark.parametrize("free_bytes", [0, 100_000])
async def test_a_full_disk(tmp_path: Path, free_bytes: int):
    """A disk that is full refuses batches, keeps what it has readable, and goes on with room."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(700_000))
        sink = Parquet(directory=str(disk / "a"), host="h", flush_seconds=1, free_bytes=free_bytes)
        taken: list[Batch] = []
        async with sink.open(opening()) as send:
            with pytest.raises(TryLater):  # noqa: PT012 - until it is full
                for batch in minutes(0, 10**6, domains=10):
                    await send(batch)
                    taken.append(batch)
            assert taken
            batch = replace(taken[-1], taken_at=taken[-1].taken_at + MINUTE_NS)
            try:
                await send(batch)
            except TryLater:
                pass
            else:  # what was flushed in the meantime takes less than its journal
                taken.append(batch)
                batch = replace(batch, taken_at=batch.taken_at + MINUTE_NS)
            counted(disk / "a")
            filler.unlink()
            await send(batch)
            taken.append(batch)
        settled(disk / "a")
        rows = found_by_duckdb(disk / "a")
        assert len(rows) == len(set(map(repr, rows)))
        wanted = source_of(*taken)
        assert rows == wanted[-len(rows) :] if free_bytes else rows == wanted


def test_the_oldest_hours_make_room(tmp_path: Path):
    """Beyond size or age whole hours go, the oldest first, and the log says it."""
    log = CapturingLogger()

    def filled(directory: Path, **limits: int) -> list[str]:
        directory.mkdir()
        kept = archive(directory, log, **limits)
        for hour in range(6):
            for batch in minutes(2, 4, hour):
                kept.append(batch)
                kept.close()
                kept.settle()
        return sorted({name.partition("Z")[0][-5:] for name in names(directory)})

    whole = filled(tmp_path / "all")
    assert whole == ["14T22", "14T23", "15T00", "15T01", "15T02", "15T03"]
    assert not log.calls
    size = sum(each.stat().st_size for each in (tmp_path / "all").glob("*.parquet"))
    assert filled(tmp_path / "size", keep_bytes=size * 4 // 6) == whole[-3:]
    assert filled(tmp_path / "age", keep_ns=2 * HOUR_NS) == whole[-3:]
    assert filled(tmp_path / "tiny", keep_bytes=1) == whole[-1:]
    assert set(events(log)) == {"archive.trimmed"}
    assert sum(call.kwargs["hours"] for call in log.calls) == 3 + 3 + 5


def test_an_hour_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without room for a second copy an hour stays in its flushes, as readable as ever."""
    kept = archive(tmp_path)
    batches = [*minutes(0, 3), *minutes(2, 3, hour=1)]
    monkeypatch.setattr(kept, "_free", lambda: 100)
    for batch in batches:
        kept.append(batch)
        kept.close()
    kept.settle()
    assert set(names(tmp_path)) == {"2023-11-14T22Z.N.parquet", "2023-11-14T23Z.N.parquet"}
    assert found_by_duckdb(tmp_path) == source_of(*batches)


def test_a_damaged_file_is_set_aside(tmp_path: Path):
    """A file that rots costs its own rows: it is taken out of the readers' sight, and named."""
    log = CapturingLogger()
    kept = archive(tmp_path, log)
    batches = [*minutes(0, 3), *minutes(2, 3, hour=1)]
    for batch in batches[:3]:
        kept.append(batch)
        kept.close()
    kept.settle()
    middle = sorted(tmp_path.glob("*.parquet"))[1]
    content = bytearray(middle.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    middle.write_bytes(content)
    kept.append(batches[3])
    for _ in range(2):
        kept.close()
        kept.settle()
        kept._sorted_before = None
    assert events(log) == ["archive.damaged"]
    assert found_by_duckdb(tmp_path) == source_of(batches[0], *batches[2:])
    assert names(tmp_path).count("2023-11-14T22Z.parquet") == 1


async def test_contract(tmp_path: Path):
    """The archive keeps the contract when its directory comes and goes."""
    place = tmp_path / "place"

    async def size() -> int:
        return sum(each.stat().st_size for each in place.iterdir())

    sink = Parquet(directory=str(place), free_bytes=0)
    await check_sink(lambda: sink, moods={"random": lambda: moved(place)}, received=size)
    settled(place)
    assert counted(place) > 0


async def test_a_directory_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second sink in the same directory, and a place that cannot be, end the start in words."""
    monkeypatch.setattr("virtstatd.sinks.parquet.PATIENCE_SECONDS", 0.1)
    sink = Parquet(directory=str(tmp_path / "a"))
    async with sink.open(opening()):
        with pytest.raises(StartError, match="in use by another sink"):
            async with sink.open(opening()):
                pass
    with pytest.raises(StartError, match="create /nowhere/at"):
        async with Parquet(directory="/nowhere/at/all").open(opening()):
            pass
    with pytest.raises(ValueError, match="directory: must be absolute"):
        Parquet(directory="a")
