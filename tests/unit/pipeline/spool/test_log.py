"""The segment log, one property at a time; the model has them all at once."""

import contextlib
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from virtstatd.model import Batch
from virtstatd.pipeline.spool import segment
from virtstatd.pipeline.spool.directory import CORRUPT_KEPT
from virtstatd.pipeline.spool.files import Space, SpoolFiles
from virtstatd.pipeline.spool.later import set_later_aside
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.segment import HEADER_BYTES, SLOT_BYTES, SLOTS, Position
from virtstatd.testing import make_batch, make_shapes


SHAPES = make_shapes()


class Watched(SpoolFiles):
    """Real files whose operations are written down."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int | str]] = []
        self.fail_sync = False
        self.room = Space(1 << 40, 1 << 41)

    def sync(self, file: int) -> None:
        """Sync, or fail once."""
        self.calls.append(("sync", file))
        if self.fail_sync:
            self.fail_sync = False
            raise OSError(errno.EIO, "no")
        super().sync(file)

    def write(self, file: int, content: bytes, offset: int) -> None:
        """Write."""
        self.calls.append(("write", file))
        super().write(file, content, offset)

    def remove(self, path: Path) -> None:
        """Remove."""
        self.calls.append(("remove", path.name))
        super().remove(path)

    def space(self, path: Path) -> Space:
        """Tell the room, as it was set."""
        return self.room


def opened(directory: Path, capacity: int = 1 << 20, files: SpoolFiles | None = None) -> Spool:
    """Return an open spool."""
    spool = Spool(directory / "s", capacity=capacity, keep_free=(0, 1 << 20), files=files)
    spool.open()
    return spool


def numbered(number: int) -> Batch:
    """Return a batch that is known by its time."""
    return make_batch(shapes=SHAPES, taken_at=number)


def drained(spool: Spool) -> list[int]:
    """Return what is to be delivered, without settling it."""
    times, at = [], spool.settled
    while found := spool.read(at, spool.end):
        times.append(found.batch.taken_at)
        at = found.after
    return times


def damage(file: Path, at: int, content: bytes = b"\xff\xff\xff\xff") -> None:
    """Write over a file."""
    whole = bytearray(file.read_bytes())
    whole[at : at + len(content)] = content
    file.write_bytes(whole)


def segments(directory: Path) -> list[Path]:
    """Return the files of the log, oldest first."""
    return sorted((directory / "s").glob("*.segment"))


def test_the_checkpoint_is_durable_before_a_segment_goes(tmp_path: Path):
    """Between the last word about what is settled and the removal there is a sync."""
    files = Watched()
    spool = opened(tmp_path, 60_000, files)
    while len(segments(tmp_path)) < 3:
        spool.append(numbered(spool.end.batches))
    files.calls.clear()
    spool.settle(spool.end)
    removed = [number for number, call in enumerate(files.calls) if call[0] == "remove"]
    assert len(removed) == 2
    before = files.calls[: removed[0]]
    assert before[-1] == ("sync", before[-2][1])
    assert before[-2][0] == "write"


def test_a_file_whose_sync_failed_is_not_used_again(tmp_path: Path):
    """What follows goes to another segment, and what was written is still read."""
    files = Watched()
    spool = opened(tmp_path, files=files)
    spool.append(numbered(0))
    file = files.calls[-2][1]
    files.fail_sync = True
    with pytest.raises(OSError, match="no"):
        spool.flush()
    files.calls.clear()
    held = os.open("/dev/null", os.O_RDONLY)  # its number must not be given to the next file
    try:
        spool.append(numbered(1))
        assert ("write", file) not in files.calls
    finally:
        os.close(held)
    assert len(segments(tmp_path)) == 2
    assert drained(spool) == [0, 1]


def test_a_batch_that_cannot_be_encoded_costs_no_other(tmp_path: Path):
    """What such a batch has told before it failed is told again by the next."""
    spool = opened(tmp_path)
    odd = replace(numbered(0), source=None)  # type: ignore[arg-type]
    for batch in (odd, numbered(1), odd, numbered(2)):
        try:
            spool.append(batch)
        except AttributeError:
            assert batch is odd
    assert drained(spool) == [1, 2]


def test_one_slot_of_the_checkpoint_is_enough(tmp_path: Path):
    """A write that never ended leaves the one before it, which is one step older."""
    for slot in SLOTS:
        directory = tmp_path / f"{slot}"
        spool = opened(directory)
        for number in range(4):
            spool.append(numbered(number))
        for _ in range(2):
            found = spool.read(spool.settled, spool.end)
            assert found
            spool.settle(found.after)
        spool.close()
        damage(directory / "s" / "checkpoint", slot * SLOT_BYTES + 20)
        spool = opened(directory)
        assert drained(spool) in ([1, 2, 3], [2, 3])


@pytest.mark.parametrize("offset", [0, 9, HEADER_BYTES - 1])
def test_a_damaged_header_costs_nothing(tmp_path: Path, offset: int):
    """The records say themselves where they are; the file is set aside in the end."""
    spool = opened(tmp_path)
    for number in range(3):
        spool.append(numbered(number))
    spool.close()
    damage(segments(tmp_path)[0], offset, b"\xff")
    spool = opened(tmp_path)
    assert drained(spool) == [0, 1, 2]
    spool.settle(spool.end)
    assert segments(tmp_path) == []
    assert len(list((tmp_path / "s").glob("*.corrupt"))) == 1


def test_few_damaged_segments_are_kept(tmp_path: Path):
    """Damage does not fill the disk."""
    spool = opened(tmp_path)
    for _ in range(CORRUPT_KEPT + 3):
        spool.append(numbered(0))
        spool.close()
        damage(segments(tmp_path)[-1], HEADER_BYTES + 100)
        spool = opened(tmp_path)
        spool.settle(spool.end)
    assert len(list((tmp_path / "s").glob("*.corrupt"))) == CORRUPT_KEPT


def test_every_cut_of_the_last_record_costs_that_record_alone(tmp_path: Path):
    """Wherever a write ended, those before it are read, and the next one is written."""
    spool = opened(tmp_path)
    for number in range(2):
        spool.append(make_batch(1, shapes=SHAPES[:1], taken_at=number))
    begin = spool.size
    spool.append(make_batch(1, shapes=SHAPES[:1], taken_at=2))
    end = spool.size
    spool.close()
    (file,) = segments(tmp_path)
    whole, checkpoint = file.read_bytes(), (tmp_path / "s" / "checkpoint").read_bytes()
    for size in range(begin, end):
        for known in (True, False):
            for each in (tmp_path / "s").iterdir():
                each.unlink()
            file.write_bytes(whole[:size])
            if known:
                (tmp_path / "s" / "checkpoint").write_bytes(checkpoint)
            spool = opened(tmp_path)
            assert spool.end.batches == (3 if known else 2)  # what is missing is known, or was not
            spool.append(numbered(3))
            assert drained(spool) == [0, 1, 3]
            spool.close()


def test_others_have_the_room_that_they_need(tmp_path: Path):
    """Under the floor old segments go, and when one is left nothing more is written."""
    files = Watched()
    spool = opened(tmp_path, 60_000, files)
    while len(segments(tmp_path)) < 4:
        spool.append(numbered(spool.end.batches))
    end = spool.end
    files.room = Space((1 << 20) - 1, 1 << 41)
    for _ in range(3):
        with pytest.raises(OSError, match="full"):
            spool.append(numbered(99))
        spool.open()
    assert len(segments(tmp_path)) == 1
    assert spool.end == end
    files.room = Space(1 << 20, 1 << 41)
    spool.append(numbered(100))
    times = drained(spool)
    assert times[-1] == 100
    assert len(times) == spool.end.since(spool.forgotten).batches


def test_a_share_of_a_large_disk_stays_free(tmp_path: Path):
    """The floor is the larger of a share and a number of bytes."""
    files = Watched()
    spool = Spool(tmp_path / "s", capacity=1 << 20, files=files)
    spool.open()
    for free, total, there in (
        (600 << 20, 1 << 30, True),
        (500 << 20, 1 << 30, False),
        (49 << 30, 1 << 40, False),
        (52 << 30, 1 << 40, True),
    ):
        files.room = Space(free, total)
        end = spool.end
        with contextlib.suppress(OSError):
            spool.append(numbered(0))
        assert (spool.end != end) == there


def test_a_spool_of_a_later_version_is_kept(tmp_path: Path):
    """What a later version wrote is refused, and can be set aside whole for that version."""
    spool = opened(tmp_path)
    spool.append(numbered(0))
    spool.close()
    (file,) = segments(tmp_path)
    content = file.read_bytes()
    header = bytearray(content[:HEADER_BYTES])
    header[8] = segment.VERSION + 1
    file.write_bytes(segment._sealed(bytes(header)) + content[HEADER_BYTES:])
    before = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    with pytest.raises(OSError, match="a later version of virtstatd wrote it, in format 2"):
        opened(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before

    spools = [tmp_path / name for name in ("s", "none")]
    ((was, kept),) = set_later_aside(spools)
    assert (was, kept) == (tmp_path / "s", tmp_path / "s.format-2")
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert opened(tmp_path).end == Position()
