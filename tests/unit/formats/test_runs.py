"""When the counters of a guest's run began."""

from dataclasses import replace
from functools import partial

from virtstatd.catalog import shipped
from virtstatd.formats.lifetimes import HOUR
from virtstatd.formats.runs import COUNTED_HERE, LEARN_NS, START, Runs
from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape
from virtstatd.testing import TAKEN_AT, make_domain


SECOND = 10**9
LATER = LEARN_NS // SECOND
STARTED = TAKEN_AT // SECOND - 500

seconds = partial(Field, "libvirt_domain", unit="seconds", help="")
CPU = Shape("cpu", (Series(seconds(name="cpu_time", kind=Kind.COUNTER)),))
OVERHEAD = Shape("local", (Series(seconds(name="overhead", kind=Kind.COUNTER)),))
START_TIME = Shape("local", (Series(seconds(name="start_time", kind=Kind.GAUGE)),))


def cpu(domain: Domain | None) -> Reading:
    """Return a counter of a guest."""
    return Reading(domain, CPU, (1,))


def at(second: int, *readings: Reading) -> Batch:
    """Return a batch that was taken then."""
    return Batch("b", TAKEN_AT + second * SECOND, readings, lifetime_seconds=10)


def test_runs():
    """A run begins with its first reading; it was witnessed when something preceded it."""
    one, other = make_domain(0), make_domain(1)
    again = cpu(Domain(one.uuid, one.name, one.id + 1, one.labels))
    runs = Runs()
    first = cpu(one)
    assert runs.began(first, at(0)) == runs.began(first, at(1)) == 0
    assert runs.began(first, at(LATER)) == TAKEN_AT
    assert runs.witnessed(first, at(1)) == 0
    assert runs.witnessed(cpu(other), at(9)) == 0
    assert runs.witnessed(again, at(5)) == TAKEN_AT + 5 * SECOND
    assert runs.witnessed(again, at(4)) == 0
    assert runs.witnessed(again, at(6)) == TAKEN_AT + 5 * SECOND
    assert again.domain
    runs.settle(replace(at(7), gone=(one, again.domain)))
    assert runs.witnessed(again, at(8)) == 0
    assert runs.witnessed(cpu(make_domain(2)), at(11)) == TAKEN_AT + 11 * SECOND
    assert runs.witnessed(cpu(None), at(30)) == 0
    assert runs.began(cpu(None), at(31)) == TAKEN_AT + 30 * SECOND


def test_a_run_began_with_its_process():
    """Where the kernel told when a guest's process started, that is it, for each agent alike."""
    guest = make_domain()
    for agent in range(3):
        runs = Runs()
        began = at(100 * agent)
        assert runs.began(cpu(guest), began) == 0
        told = at(100 * agent + 1, Reading(guest, START_TIME, (STARTED + 0.25,)))
        runs.learn(told)
        assert runs.began(cpu(guest), told) == runs.witnessed(cpu(guest), told) == STARTED * SECOND
        moved = at(100 * agent + 2, Reading(guest, START_TIME, (STARTED + 60,)))
        runs.learn(moved)
        assert runs.began(cpu(guest), moved) == STARTED * SECOND


def test_a_restarted_guest_began_anew():
    """Another run has another beginning, also under the number of the one before."""
    guest = make_domain()
    again = replace(guest, id=guest.id + 1)
    for next_run, gone in ((again, ()), (guest, (guest,))):
        runs = Runs()
        runs.learn(at(0, Reading(guest, START_TIME, (STARTED,))))
        assert runs.began(cpu(guest), at(0)) == STARTED * SECOND
        runs.settle(replace(at(9), gone=gone))
        started = TAKEN_AT // SECOND + 10
        runs.learn(at(12, Reading(next_run, START_TIME, (started,))))
        assert runs.began(cpu(next_run), at(12)) == started * SECOND


def test_what_the_agent_counts_begins_with_the_agent():
    """Counters that the agent keeps itself start again with it, and say so."""
    guest = make_domain()
    runs = Runs()
    runs.learn(at(0, Reading(guest, START_TIME, (STARTED,))))
    overhead = Reading(guest, OVERHEAD, (1,))
    assert runs.began(overhead, at(1)) == TAKEN_AT + SECOND
    assert runs.witnessed(overhead, at(1)) == 0


def test_a_start_that_cannot_be_is_none():
    """A start of zero, or after the reading, is not told."""
    guest = make_domain()
    for value in (0, TAKEN_AT // SECOND + 50):
        runs = Runs()
        runs.learn(at(0, Reading(guest, START_TIME, (value,))))
        assert runs.witnessed(cpu(guest), at(1)) == 0


def test_runs_whose_end_was_lost():
    """A guest from which nothing came for a day is forgotten, one that is there never is."""
    runs, stays = Runs(), make_domain(0)
    for hour in range(60):
        new = make_domain(1 + hour)
        batch = replace(at(0), taken_at=TAKEN_AT + hour * HOUR)
        runs.learn(replace(batch, readings=(Reading(new, START_TIME, (STARTED,)),)))
        runs.began(cpu(stays), batch)
        runs.began(cpu(new), batch)
        runs.settle(batch)
    assert runs.began(cpu(stays), batch) == TAKEN_AT
    assert len(runs._began) < 30
    assert len(runs._seen) == len(runs._began)
    assert len(runs._started) <= len(runs._began)


def test_what_is_looked_for_is_in_the_catalog():
    """The names by which beginnings are known are those of the catalog."""
    families = {line.field.family for line in shipped().fields if line.field}
    assert families >= COUNTED_HERE | {START}
