"""The spool against a model of what file systems, power supplies and cosmic rays do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.models import Died, Modelled, Trouble
from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape
from virtstatd.pipeline.buffer import Tally
from virtstatd.pipeline.spool.directory import CORRUPT_KEPT
from virtstatd.pipeline.spool.log import Spool, Sync
from virtstatd.pipeline.spool.reader import Found
from virtstatd.pipeline.spool.segment import HEADER_BYTES, SLOT_BYTES, SLOTS, Position


DIRECTORY = Path("/spool")
CHECKPOINT = DIRECTORY / "checkpoint"
ZEROED = 64

FIELD = Field("p", "n", Kind.GAUGE, "", "h")
SHAPES = [
    Shape("g", tuple(Series(FIELD, (("l", f"{number}"),)) for number in range(size)))
    for size in range(1, 4)
]
DOMAINS = [Domain(f"u{number}", f"n{number}", number, ()) for number in range(3)]


def batch(number: int, size: int) -> Batch:
    """Return a small batch that is known by its number, with what others have too."""
    shape = SHAPES[size - 1]
    return Batch(
        "s", number, (Reading(DOMAINS[number % 3], shape, (number,) * size),), frozenset("g")
    )


class Run:
    """A spool, its disk, and an honest account of what it was given and what it gave."""

    def __init__(self, capacity: int, sync: Sync, seed: int) -> None:
        self.files = Modelled(seed)
        self.capacity = capacity
        self.sync: Sync = sync
        self.originals: dict[int, Batch] = {}
        self.positions: dict[int, Position] = {}
        """Of every batch that the spool said it had written."""
        self.extents: dict[int, tuple[Path, int, int]] = {}
        self.settled: set[int] = set()
        """What a later process must not deliver again."""
        self.delivered: set[int] = set()
        self.forgotten: set[int] = set()
        self.unsynced: set[int] = set()
        self.doomed: set[int] = set()
        """What a failed sync may have left in memory alone."""
        self.losable: set[int] = set()
        self.exact = True
        """Whether what is lost must be what is counted: the checkpoint was what it wrote last."""
        self.honest = True
        """Whether nobody has put a checkpoint of his own there."""
        self.stale = False
        """Whether the checkpoint knows less than was written, since writing it failed."""
        self.begin()

    def begin(self) -> None:
        """Start a process."""
        self.spool = Spool(
            DIRECTORY, capacity=self.capacity, sync=self.sync, keep_free=(0, 0), files=self.files
        )
        self.usable = False
        self.underway: Found | None = None
        self.cursor: Position | None = None
        self.damaged = Tally()
        self.last = -1
        self.attempt(self.open)

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something that the disk may refuse, or that may be the last that the process does."""
        happened = self.files.happened
        try:
            action()
        except OSError:
            assert self.files.happened > happened
            self.usable = False
        except Died:
            self.restart(power=False)

    def open(self) -> None:
        """Open the spool; only a disk that fails now is a reason not to."""
        if not self.usable:
            troubled = self.files.troubled
            try:
                self.spool.open()
            finally:  # what cannot be read is set aside, also where something else fails later
                if self.files.troubled > troubled:
                    there = self.files.names_now
                    self.losable |= {n for n, each in self.extents.items() if each[0] not in there}
            self.usable = True
            self.stale = False
            if self.sync != "none":
                self.unsynced.clear()
            if self.cursor is None:
                self.cursor = self.spool.settled

    def restart(self, *, power: bool) -> None:
        """End the process without a word, and start another."""
        if power:
            self.losable |= self.unsynced | self.doomed
            self.settled.clear()  # the checkpoint may be as old as the last sync
            self.exact = False
        self.files.restart(power=power)
        self.begin()

    def append(self, size: int) -> None:
        """Write a batch."""
        number = len(self.originals)
        self.originals[number] = batch(number, size)
        self.attempt(self.open)
        if self.usable:
            self.attempt(lambda: self._append(number))

    def _append(self, number: int) -> None:
        spool = self.spool
        before = spool.end
        known = {segment.path: segment.size for segment in spool._segments}
        try:
            self.stale = True
            spool.append(self.originals[number])
            self.stale = False
        except OSError:
            self.doomed |= self.unsynced | {number}
            raise
        finally:
            self._forget()
            if spool.end != before:
                segment = spool._segments[-1]
                begin = known.get(segment.path, HEADER_BYTES)
                self.positions[number] = before
                self.extents[number] = segment.path, begin, segment.size
                self.unsynced.add(number)
        if self.sync == "batch":
            self.unsynced.clear()

    def _forget(self) -> None:
        self.forgotten |= {
            number for number, position in self.positions.items() if position < self.spool.forgotten
        }

    def read(self) -> None:
        """Take the next batch, when the one before is settled."""
        if self.underway is None and self.cursor is not None:
            self.attempt(self._read)

    def _read(self) -> None:
        assert self.cursor is not None
        self.cursor = max(self.cursor, self.spool.forgotten)
        happened = self.files.happened
        found = self.spool.read(self.cursor, self.spool.end)
        position = found.position if found else self.spool.end
        assert position >= self.cursor
        if self.files.happened > happened:  # what a disk fails to read is as good as damaged
            passed = {n for n, each in self.positions.items() if self.cursor <= each < position}
            self.losable |= passed
        self.damaged += position.since(self.cursor)
        self.cursor = position
        if found is None:
            return
        number = found.batch.taken_at
        assert same(found.batch, self.originals[number])
        assert number > self.last, "not in order"
        assert number not in self.settled, "delivered again"
        self.last = number
        self.delivered.add(number)
        self.cursor = found.after
        self.underway = found

    def reached(self) -> int | None:
        """Return the number of the batch underway."""
        return self.underway.batch.taken_at if self.underway else None

    def settle(self) -> None:
        """Have the batch underway off the books."""
        if found := self.underway:
            self.underway = None
            self.attempt(lambda: self._settle(found))

    def _settle(self, found: Found) -> None:
        opened = self.usable
        self.spool.settle(found.after)
        if opened:
            self.settled.add(found.batch.taken_at)

    def flush(self) -> None:
        """Make durable what is written."""
        if self.usable:
            self.attempt(self._flush)

    def _flush(self) -> None:
        try:
            self.spool.flush()
        except OSError:
            self.doomed |= self.unsynced
            raise
        if self.sync != "none":
            self.unsynced.clear()

    def end(self) -> None:
        """End the process as it should, and start another."""
        with suppress(OSError, Died):
            self.spool.finish()
        self.restart(power=False)

    def damage(self, kind: str, at: int) -> None:
        """Do something to the files while no process runs."""
        self.exact &= not self.stale
        self.files.restart(power=False)
        segments = sorted(path for path in self.files.names_now if path.name.endswith(".segment"))
        match kind:
            case "no checkpoint":
                self._lie()
                self.files.take_away(CHECKPOINT)
            case "bad checkpoint":
                self._lie()
                self.files.put(CHECKPOINT, os.urandom(at % 9000))
            case "old checkpoint" if CHECKPOINT in self.files.names_now:
                self._lie()
                content = self.files.names_now[CHECKPOINT].content
                slot = at % len(SLOTS) * SLOT_BYTES
                content[slot : slot + 8] = bytes(8)
            case "garbage":
                path = DIRECTORY / f"{at % 40:020}.segment"
                if path not in self.files.names_now:
                    self.files.put(path, os.urandom(at % 999))
            case _ if segments:
                self._damage(kind, at, segments[at % len(segments)], segments[-1])
        self.begin()

    def _damage(self, kind: str, at: int, path: Path, last: Path) -> None:
        content = self.files.names_now[path].content
        match kind:
            case "flip" if content:
                content[at % len(content)] ^= 1 << at % 8
                self._touch(path, at % len(content), at % len(content) + 1)
            case "zeros" if content:
                begin = at % len(content) // ZEROED * ZEROED
                self._touch(path, begin, begin + ZEROED)
                content[begin : begin + ZEROED] = bytes(len(content[begin : begin + ZEROED]))
            case "cut":
                content = self.files.names_now[last].content
                size = at % (len(content) + 1)
                self._touch(last, size, len(content))
                del content[size:]
            case "missing":
                self._touch(path, 0, 1 << 60)
                self.files.take_away(path)

    def _touch(self, path: Path, begin: int, end: int) -> None:
        inside = {n: extent for n, extent in self.extents.items() if extent[0] == path}
        touched = {n for n, (_, first, last) in inside.items() if first < end and begin < last}
        self.losable |= touched
        if len(self.losable & inside.keys()) > 1:  # both tellings of a meaning may be among them
            self.losable |= inside.keys()

    def _lie(self) -> None:
        self.honest = False
        self.settled.clear()
        self.exact = False

    def account(self) -> None:
        """Drain in a process without trouble; everything is delivered, or lost for a reason."""
        self.files.full = False
        self.files.restart(power=False)
        self.begin()
        assert self.usable
        assert self.cursor is not None
        begun, counted = self.cursor, len(self.delivered)
        before, self.delivered = self.delivered, set()
        while self.cursor < self.spool.end or self.underway:
            self.settle()
            self.read()
        lost = {
            number
            for number, position in self.positions.items()
            if position >= begun and number not in self.delivered
        }
        if self.exact:
            tally = Tally()
            for number in lost:
                tally.add(self.originals[number])
            assert tally == self.damaged
        elif self.honest:  # the checkpoint is durable before a segment goes
            assert self.damaged.batches <= len(self.losable)
        never = self.positions.keys() - before - self.delivered - self.forgotten
        assert never <= self.losable, (counted, never)
        corrupt = [path for path in self.files.names_now if path.name.endswith(".corrupt")]
        assert len(corrupt) <= CORRUPT_KEPT
        assert self.spool.size <= self.capacity
        number = len(self.originals)
        self.append(1)
        self.read()
        assert self.reached() == number, "nothing new is delivered"
        self.settle()
        self.spool.finish()
        rest = {path for path in self.files.names_now if not path.name.endswith(".corrupt")}
        assert rest - {DIRECTORY / "checkpoint.new"} == {CHECKPOINT}


def same(one: Batch, other: Batch) -> bool:
    """Compare what two batches say."""

    def content(each: Batch) -> list[object]:
        return [(r.domain, r.shape.group, r.shape.series, r.values) for r in each.readings]

    return replace(one, readings=()) == replace(other, readings=()) and content(one) == content(
        other
    )


ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
KINDS = (
    *("flip", "flip", "zeros", "cut", "cut", "missing", "garbage"),
    *("no checkpoint", "bad checkpoint", "old checkpoint"),
)

STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 3)),
    st.tuples(st.just("append"), st.integers(1, 3)),
    st.tuples(st.just("append many"), st.integers(2, 12)),
    st.tuples(st.just("deliver"), st.integers(1, 4)),
    st.tuples(st.just("deliver"), st.integers(1, 20)),
    st.tuples(st.just("read"), st.just(0)),
    st.tuples(st.just("flush"), st.just(0)),
    st.tuples(st.just("end"), st.just(0)),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(
        st.just("trouble"),
        st.builds(
            lambda *chosen: chosen,
            st.integers(0, 25),
            st.sampled_from((*ERRORS, None)),
            st.booleans(),
        ),
    ),
    st.tuples(st.just("healed"), st.just(0)),
    st.tuples(st.just("space"), st.booleans()),
    st.tuples(
        st.just("damage"),
        st.tuples(st.sampled_from(KINDS), st.integers(0, 1 << 16)),
    ),
)


def check(  # noqa: PLR0912 - one branch per step
    capacity: int, sync: Sync, seed: int, steps: list[tuple[str, object]]
) -> None:
    """Run a program."""
    run = Run(capacity, sync, seed)
    for step in steps:
        match step:
            case ("append", int(size)):
                run.append(size)
            case ("append many", int(count)):
                for number in range(count):
                    run.append(number % 3 + 1)
            case ("deliver", int(count)):
                for _ in range(count):
                    run.read()
                    run.settle()
            case ("read", _):
                run.read()
            case ("flush", _):
                run.flush()
            case ("end", _):
                run.end()
            case ("restart", bool(power)):
                run.restart(power=power)
            case ("trouble", (int(operations), int() | None as error, bool(lasting))):
                run.files.trouble = Trouble(operations, error, lasting)
            case ("healed", _):
                run.files.trouble = None
            case ("space", bool(there)):
                run.files.full = not there
            case ("damage", (str(kind), int(at))):
                run.damage(kind, at)
    run.account()


PROGRAM = {
    "capacity": st.sampled_from((2000, 6000, 1 << 20)),
    "sync": st.sampled_from(("none", "interval", "batch")),
    "seed": st.integers(0, 1 << 16),
    "steps": st.lists(STEP, max_size=16),
}
QUICK = settings(max_examples=1200, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@QUICK
@given(**PROGRAM)
def test_only_what_is_damaged_or_unsynced_is_lost(
    capacity: int, sync: Sync, seed: int, steps: list[tuple[str, object]]
):
    """Whatever happens to process, disk and power: it starts, and what is lost is counted."""
    check(capacity, sync, seed, steps)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(QUICK, max_examples=50_000)
@given(**PROGRAM)
def test_only_what_is_damaged_or_unsynced_is_lost_for_long(
    capacity: int, sync: Sync, seed: int, steps: list[tuple[str, object]]
):
    """The same, many times."""
    check(capacity, sync, seed, steps)
