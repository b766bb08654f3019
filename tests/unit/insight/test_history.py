"""The last hour, in so many bytes at most."""

import random

import pytest

from virtstatd.insight.history import (
    DISK_SERIES,
    DISKS_MAX,
    GUEST_SERIES,
    HOST,
    HOST_SERIES,
    STEP_MAX_SECONDS,
    History,
)


NAMES = ("a", "b")
START = 1_700_000_000
MANY = 1 << 24


def guest(number: float | None) -> list[float | None]:
    """Return numbers of a guest, all alike."""
    return [number] * len(GUEST_SERIES)


def test_an_hour_of_means():
    """A slot has the mean of what was observed in it, one without anything is null."""
    history = History(MANY)
    for at, number in ((0, 1.0), (5, 3.0), (10, None), (30, 5.0)):
        history.put("g", START + at, [number, None if at else 7.0])
    assert history.document("g", NAMES, START + 31) == {
        "begin": START,
        "step_seconds": 10,
        "series": {"a": [2.0, None, None, 5.0], "b": [7.0, None, None, None]},
        "disks": {},
    }


def test_after_an_hour_the_oldest_are_overwritten():
    """However long it runs, there is one hour, in its order."""
    history = History(MANY)
    for at in range(0, 8000, 10):
        history.put("g", START + at, [float(at), None])
    document = history.document("g", NAMES, START + 8000)
    assert document["series"]["a"] == [float(at) for at in range(4400, 8000, 10)]
    assert document["begin"] == START + 4400


def test_a_gap_is_null_and_an_old_ring_is_empty():
    """Slots that were left out do not show what was there an hour ago."""
    history = History(MANY)
    for at in range(0, 3600, 10):
        history.put("g", START + at, [1.0, 1.0])
    history.put("g", START + 5000, [2.0, 2.0])
    document = history.document("g", NAMES, START + 5000)
    series = document["series"]["a"]
    assert series[-1] == 2.0
    assert series[:-1] == [1.0] * 219 + [None] * 140
    assert history.document("g", NAMES, START + 9000)["series"] == {"a": [], "b": []}
    assert history.document("other", NAMES, START)["series"] == {"a": [], "b": []}


@pytest.mark.parametrize("step", [-5000, -20, 100_000])
def test_a_step_of_the_clock_begins_anew(step: int):
    """Numbers of another time are not mixed with those of now."""
    history = History(MANY)
    history.put("g", START, [1.0, 1.0])
    history.put("g", START + step, [2.0, 2.0])
    series = history.document("g", NAMES, START + step)["series"]["a"]
    assert [each for each in series if each is not None] == [2.0]


def test_the_limit_holds_whatever_comes():
    """So many bytes and no more, however many guests come and go; the resolution falls."""
    pick = random.Random(3)
    history = History(limit_bytes=400_000)
    for at in range(0, 1200, 5):
        guests = [f"g{each}" for each in range(pick.choice((3, 30, 200, 900)))]
        for each in guests:
            history.put(each, START + at, guest(0.5))
            for disk in pick.choice(((), ("vda",), ("vda", "sda", "sdb"))):
                history.put(each, START + at, [0.5] * len(DISK_SERIES), disk)
        assert history.size_bytes <= history.limit_bytes
        assert history.step <= STEP_MAX_SECONDS
        history.tidy(guests, START + at)
    assert history.step > 10
    for at in range(1200, 3000, 5):
        history.put("g0", START + at, guest(0.5))
        history.put("g0", START + at, [0.5] * len(DISK_SERIES), "vda")
        history.tidy(["g0"], START + at)
    assert history.step == 10
    assert [*history.rings] == ["g0"]
    for ring in history.rings["g0"].values():
        assert len(ring.numbers) in (len(GUEST_SERIES) * 360, len(DISK_SERIES) * 360)


def test_what_was_known_survives_another_resolution():
    """A coarser slot has the mean of its parts, a finer one what the coarser had."""
    history = History(MANY)
    for at in range(0, 80, 10):
        history.put("g", START + at, [float(at), None])
    history.step = 40
    assert history.document("g", NAMES, START + 80) == {
        "begin": START,
        "step_seconds": 40,
        "series": {"a": [15.0, 55.0], "b": [None, None]},
        "disks": {},
    }
    history.step = 10
    series = history.document("g", NAMES, START + 80)["series"]["a"]
    assert series == [15.0] * 4 + [55.0] * 4


def test_disks_are_beside_their_guest():
    """The numbers of disks begin and end with those of the guest, whatever came and went."""
    history = History(MANY)
    for at in range(0, 100, 10):
        history.put("g", START + at, [float(at), 1.0])
        if at >= 50:
            history.put("g", START + at, [float(at)] * len(DISK_SERIES), "vdb")
        if at < 30:
            history.put("g", START + at, [None, *[1.0] * (len(DISK_SERIES) - 1)], "vda")
    document = history.document("g", NAMES, START + 100)
    assert document["begin"] == START
    assert len(document["series"]["a"]) == 10
    assert document["disks"]["vda"]["write_iops"] == [1.0] * 3 + [None] * 7
    assert document["disks"]["vda"]["read_bytes_per_second"] == [None] * 10
    assert document["disks"]["vdb"]["read_iops"] == [None] * 5 + [50.0, 60.0, 70.0, 80.0, 90.0]
    history.step = 20
    assert history.document("g", NAMES, START + 100)["disks"]["vdb"]["read_iops"] == [
        *(None, None),
        *(50.0, 65.0, 85.0),
    ]
    history.tidy(["g"], START + 3650)
    assert [*history.rings["g"]] == ["", "vdb"]


def test_a_guest_has_so_many_disks():
    """A guest with hundreds of disks takes no room from others."""
    history = History(MANY)
    history.put("g", START, guest(1.0))
    for each in range(500):
        history.put("g", START, [1.0] * len(DISK_SERIES), f"sd{each}")
    assert len(history.document("g", GUEST_SERIES, START)["disks"]) == DISKS_MAX


def test_off_is_nothing():
    """With 0 bytes nothing is kept."""
    history = History(0)
    history.put("g", START, guest(1.0))
    assert history.rings == {}
    assert history.document("g", NAMES, START)["series"] == {"a": [], "b": []}


def test_it_is_handed_over():
    """The next run continues where the last one ended, within its own limit."""
    history = History(MANY)
    for at in range(0, 600, 10):
        history.put("g", START + at, guest(float(at)))
        history.put("g", START + at, [float(at)] * len(DISK_SERIES), "vda")
        history.put(HOST, START + at, [float(at)] * len(HOST_SERIES))
    dumped = history.dump()
    again = History(MANY)
    again.load(dumped)
    for key, names in (("g", GUEST_SERIES), (HOST, HOST_SERIES)):
        assert again.document(key, names, START + 600) == history.document(key, names, START + 600)
    small = History(20_000)
    small.load(dumped)
    assert 0 < small.size_bytes <= 20_000
    other = History(MANY)
    other.load(dumped[:-1])
    assert other.rings == {}
    none = History(0)
    none.load(dumped)
    assert none.rings == {}


def test_a_guest_that_restarts_keeps_its_history():
    """A guest that is away for a minute has its history afterwards, one that is gone has not."""
    history = History(MANY)
    history.put("g", START, guest(1.0))
    history.tidy([], START + 60)
    assert "g" in history.rings
    history.tidy([], START + 400)
    assert history.rings == {}
