"""Threads on which libvirt is called."""

import asyncio
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import libvirt
import pytest

from virtstatd.errors import Crowded, Disconnected, Overdue, Refused
from virtstatd.hypervisor.lanes import OUTSTANDING_MAX, Lanes, Session


@dataclass
class Connection:
    """A connection that lives until the test says otherwise."""

    alive: bool = True
    closed: bool = False

    def isAlive(self) -> int:  # noqa: N802 - libvirt's name
        """Tell whether it lives."""
        return int(self.alive)

    def close(self) -> int:
        """Close."""
        self.closed = True
        return 0


@dataclass
class Opener:
    """Opens connections and remembers them."""

    opened: list[Connection] = field(default_factory=list)
    fails: bool = False

    def __call__(self) -> Session:
        """Open one more."""
        if self.fails:
            raise libvirt.libvirtError("no daemon")
        self.opened.append(Connection())
        return Session(self.opened[-1])


def fault(_: Session) -> None:
    """Fail as libvirt does."""
    raise libvirt.libvirtError("something was refused")


async def test_calls_share_no_more_lanes_than_allowed():
    """With a width of two, never more than two calls are made at once, on two connections."""
    opener, now, most = Opener(), 0, 0
    lanes = Lanes(opener, 2)
    lock = threading.Lock()
    meet = threading.Barrier(2, timeout=100)

    def call(_: Session) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        meet.wait()
        with lock:
            now -= 1

    await asyncio.gather(*(lanes.run(call, 10) for _ in range(20)))
    assert most == 2
    assert len(opener.opened) == 2
    await lanes.close(5)
    assert all(each.closed for each in opener.opened)


async def test_lanes_that_nobody_needs_are_closed(monkeypatch: pytest.MonkeyPatch):
    """Of those that a burst has opened one is left after a while, and gives no connection back."""
    opener = Opener()
    lanes = Lanes(opener, 3)
    meet = threading.Barrier(3, timeout=100)
    await asyncio.gather(*(lanes.run(lambda _: meet.wait(), 10) for _ in range(3)))
    assert (len(lanes), sum(each.closed for each in opener.opened)) == (3, 0)
    monkeypatch.setattr("virtstatd.hypervisor.lanes.IDLE_SECONDS", 0.0)
    for _ in range(2):
        await asyncio.sleep(0.02)
        await lanes.run(lambda _: None, 10)
    assert (len(lanes), len(opener.opened)) == (1, 3)
    await lanes.close(5)
    assert all(each.closed for each in opener.opened)


async def test_connections_are_kept_while_calls_wait():
    """With all lanes busy and calls in line, as many are opened as there may be, and no more."""
    opener = Opener()
    lanes = Lanes(opener, OUTSTANDING_MAX // 2)
    together = threading.Barrier(OUTSTANDING_MAX, timeout=100)  # they return at the same time
    await asyncio.gather(
        *(lanes.run(lambda _: together.wait(), 10, monitor=number % 2 == 0) for number in range(80))
    )
    assert len(opener.opened) == OUTSTANDING_MAX
    await lanes.close(5)
    assert all(each.closed for each in opener.opened)


async def test_a_call_past_its_deadline_is_abandoned_and_replaced():
    """Others are answered while one hangs; its late result is discarded, its lane comes back."""
    opener, release = Opener(), threading.Event()
    lanes = Lanes(opener, 1)

    with pytest.raises(Overdue):
        await lanes.run(lambda _: release.wait(10), 0.01)
    assert (lanes.outstanding, lanes.abandoned, lanes.abandoned_total) == (1, 1, 1)
    assert await lanes.run(lambda _: "answered", 10) == "answered"
    release.set()
    while lanes.abandoned:
        await asyncio.sleep(0.001)
    assert lanes.outstanding == 0
    assert await lanes.run(lambda _: "again", 10) == "again"
    await lanes.close(5)
    assert len(opener.opened) == 2


async def test_no_more_calls_hang_than_the_bound():
    """When everything hangs, calls wait instead of filling libvirtd's workers."""
    release, started = threading.Event(), []
    lanes = Lanes(Opener(), 3)

    def hang(_: Session) -> None:
        started.append(1)
        release.wait(10)

    tasks = [asyncio.create_task(lanes.run(hang, 0.01)) for _ in range(10)]
    while lanes.abandoned < OUTSTANDING_MAX:
        await asyncio.sleep(0.001)
    assert len(started) == lanes.outstanding == OUTSTANDING_MAX
    release.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    # a busy machine may be late with one that does not hang, too
    assert sum(isinstance(each, Overdue) for each in outcomes) >= OUTSTANDING_MAX
    assert len(started) == 10
    await lanes.close(5)


async def test_one_call_is_left_for_what_cannot_hang():
    """Calls that ask monitors take three places at most; one that asks none is never held up."""
    release = threading.Event()
    lanes = Lanes(Opener(), 3)
    tasks = [
        asyncio.create_task(
            lanes.run(lambda _: release.wait(10), 0.01, monitor=True, proven=proven)
        )
        for proven in (False, False, False, False, True, True)
    ]
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [Overdue] * 2 + [Crowded] * 2 + [Overdue, Crowded]
    assert (lanes.stuck, lanes.outstanding) == (3, 3)
    with pytest.raises(Crowded):
        await lanes.run(lambda _: "never asked", 10, monitor=True, proven=True)
    assert await lanes.run(lambda _: "answered", 10) == "answered"
    release.set()
    while lanes.stuck:
        await asyncio.sleep(0.001)
    assert lanes.outstanding == 0
    await lanes.close(5)


async def test_the_last_that_may_hang_is_left_for_guests_known_good():
    """With two calls stuck only those who are proven are asked, one call at a time."""
    release = threading.Event()
    lanes = Lanes(Opener(), 3)
    for _ in range(2):
        with pytest.raises(Overdue):
            await lanes.run(lambda _: release.wait(10), 0.01, monitor=True)
    with pytest.raises(Crowded):
        await lanes.run(lambda _: "never asked", 10, monitor=True)

    def count(_: Session) -> int:
        return lanes.outstanding

    asked = [lanes.run(count, 10, monitor=True, proven=True) for _ in range(5)]
    assert await asyncio.gather(*asked) == [3] * 5
    release.set()
    while lanes.stuck:
        await asyncio.sleep(0.001)
    await lanes.close(5)


async def test_calls_have_their_turns_in_order_whatever_goes_on_beside_them():
    """Calls of another kind that begin and end do not shuffle those that wait."""
    lanes = Lanes(Opener(), 1)  # one lane of each kind, so that begins are in the order of turns
    begun: dict[bool, list[int]] = {True: [], False: []}
    asked = [
        lanes.run(partial(lambda m, n, _: begun[m].append(n), monitor, n), 10, monitor=monitor)
        for n in range(40)
        for monitor in (True, False)
    ]
    await asyncio.gather(*asked)
    assert begun == {True: list(range(40)), False: list(range(40))}
    assert (lanes.outstanding, any(lanes._waiting.values())) == (0, False)
    await lanes.close(5)


class Counting(Lanes):
    """Lanes that count how often it is looked whether there is room."""

    looks = 0

    def _room(self, most: int) -> bool:
        self.looks += 1
        return super()._room(most)


@pytest.mark.parametrize("count", [50, 1000])
async def test_a_turn_costs_the_same_however_many_wait(count: int):
    """Calls in line are not walked through at each arrival and each end."""
    lanes = Counting(Opener(), 2)
    kinds = [(monitor, patient) for monitor in (True, False) for patient in (True, False)]
    await asyncio.gather(
        *(
            lanes.run(lambda _: None, 100, monitor=monitor, patient=patient)
            for _ in range(count // len(kinds))
            for monitor, patient in kinds
        )
    )
    assert lanes.looks < 20 * count
    await lanes.close(5)


async def test_a_cancelled_wait_passes_its_turn_on():
    """A caller that gives up while waiting for a lane leaves the turn to the next."""
    release = threading.Event()
    lanes = Lanes(Opener(), 1)
    first = asyncio.create_task(lanes.run(lambda _: release.wait(10), 10))
    await asyncio.sleep(0)
    second = asyncio.create_task(lanes.run(lambda _: "second", 10))
    third = asyncio.create_task(lanes.run(lambda _: "third", 10))
    await asyncio.sleep(0)
    second.cancel()
    release.set()

    assert await third == "third"
    assert await first is True
    await lanes.close(5)


async def test_a_patient_call_lets_all_others_go_first():
    """Its turn comes when nobody else waits for one, however long it has waited itself."""
    release = threading.Event()
    order: list[int] = []
    lanes = Lanes(Opener(), 1)
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(lanes.run(lambda _: release.wait(10), 10, monitor=True))
    ]
    await asyncio.sleep(0)
    for number in range(6):
        turn = partial(lambda n, _: order.append(n), number)
        call = lanes.run(turn, 10, monitor=True, patient=number < 2)
        tasks.append(asyncio.create_task(call))
        await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*tasks)
    assert order == [2, 3, 4, 5, 0, 1]
    await lanes.close(5)


async def test_a_refusal_keeps_the_connection_and_a_death_opens_another():
    """Death is read from the connection, not from the error."""
    opener = Opener()
    lanes = Lanes(opener, 1)
    with pytest.raises(Refused):
        await lanes.run(fault, 10)
    assert len(opener.opened) == 1
    opener.opened[0].alive = False
    assert await lanes.run(lambda _: 1, 10) == 1
    assert len(opener.opened) == 2
    assert opener.opened[0].closed

    def die(session: Session) -> None:
        session.connection.alive = False
        fault(session)

    with pytest.raises(Disconnected):
        await lanes.run(die, 10)
    await lanes.close(5)
    assert opener.opened[1].closed


async def test_a_connection_that_cannot_be_opened_says_why():
    """Without a daemon a call fails at once as disconnected, and works when there is one."""
    opener = Opener(fails=True)
    lanes = Lanes(opener, 1)
    with pytest.raises(Disconnected, match="no daemon"):
        await lanes.run(lambda _: 1, 10)
    opener.fails = False
    assert await lanes.run(lambda _: 1, 10) == 1
    await lanes.close(5)


async def test_closing_undoes_in_reverse_whatever_fails():
    """Callbacks are taken back before the connection closes, also when one cannot be."""
    connection, undone = Connection(), []
    session = Session(connection)
    session.on_close += [lambda: undone.append(1), lambda: fault(session), lambda: undone.append(3)]
    session.close()

    assert undone == [3, 1]
    assert connection.closed
