"""Journals of version 0.1.0, which had a format of their own, and what becomes of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from structlog.testing import CapturingLogger

from support.parquet import MINUTE_NS, archive, found_by_duckdb, source_of
from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape
from virtstatd.testing import TAKEN_AT


OLD = Path(__file__).parents[1] / "golden/archive/0.1.0.journal"
"""Written by 0.1.0 from `contents`, and killed within a third batch."""


def contents() -> list[Batch]:
    """Return the batches that the old journal holds."""
    wait = Field("libvirt_domain", "block_wait", Kind.HISTOGRAM, "seconds", "h", -9)
    disk = (("target_device", "vda"),)
    guest = Shape(
        "block",
        (
            Series(Field("libvirt_domain", "cpu_time", Kind.COUNTER, "seconds", "h", -9)),
            Series(Field("libvirt_domain", "block_info", Kind.INFO, "", "h"), (*disk, ("é", "ü"))),
            Series(Field("libvirt_domain", "odd 100%", Kind.UNKNOWN, "", "h"), (("k", "\udce9"),)),
            *(Series(wait, (*disk, ("le", le)), "bucket") for le in ("0.001", "2e6", "+Inf")),
            Series(wait, disk, "sum"),
            Series(wait, disk, "count"),
        ),
    )
    host = Shape("host", (Series(Field("libvirt", "memory_total", Kind.GAUGE, "bytes", "h", 3)),))
    owners = [
        Domain("u-1", "web", 7, (("domain", "web"), ("uuid", "u-1"), ("project", "p"))),
        Domain("u-2", "d\udcff", 9, (("domain", "d\udcff"),)),
    ]
    return [
        Batch(
            "bulk",
            TAKEN_AT + number * MINUTE_NS // 2,
            (
                *(
                    Reading(owner, guest, (2**63 + number, 1, -1.5, 1, 2, 3, 123_456_789, 3))
                    for owner in owners
                ),
                Reading(None, host, (65_536 + number,)),
            ),
        )
        for number in range(2)
    ]


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """Return a directory in which 0.1.0 was killed."""
    shutil.copy(OLD, tmp_path / f".{7:020}.journal")
    return tmp_path


def test_an_old_journal_becomes_a_file(left: Path):
    """What 0.1.0 had not flushed is in the archive after a start, each number, name and label."""
    log = CapturingLogger()
    archive(left, log).settle()
    assert found_by_duckdb(left) == source_of(*contents())
    assert [each.name for each in left.iterdir()] == ["2023-11-14T22Z.00000000000000000007.parquet"]
    assert not log.calls


def test_an_old_journal_and_a_new_one(left: Path):
    """Old and new numbers of one series are one series."""
    later = [replace(each, taken_at=each.taken_at + MINUTE_NS) for each in contents()]
    kept = archive(left)
    for batch in later:
        kept.append(batch)
    kept.close()
    kept.settle()
    assert found_by_duckdb(left) == source_of(*contents(), *later)
    query = "SELECT count(DISTINCT series) FROM read_parquet(?)"
    [(series,)] = duckdb.execute(query, [str(left / "*.parquet")]).fetchall()
    assert series == contents()[0].samples


@pytest.mark.parametrize("at", [0, 4, 8, 300])
def test_an_old_journal_that_is_damaged(left: Path, at: int):
    """Damage ends the reading, as it did; what comes before it is kept, and nothing is raised."""
    [journal] = left.glob(".*.journal")
    content = bytearray(journal.read_bytes())
    content[at] ^= 0x81
    journal.write_bytes(content)
    archive(left).settle()
    assert not list(left.glob(".*.journal"))
