"""What all disks on a storage did: never less than before, whoever comes and goes."""

from __future__ import annotations

from virtstatd.collect.storage.disks import COUNTERS, DiskCounters
from virtstatd.collect.storage.sums import KEPT_SECONDS, OTHERS, STORAGES_MAX, Sums


NFS, RBD = ("nfs", "nas:/x"), ("rbd", "vms")


def disk(number: int) -> DiskCounters:
    """Return the counters of a disk that has done so much of everything."""
    return (number,) * len(COUNTERS)


def shown(sums: Sums, now: float = 0.0, key: str = "read_requests") -> dict[tuple[str, str], float]:
    """Return a number of all storages."""
    return {storage: number for each, storage, number in sums.rows(now) if each == key}


def test_growth_is_summed_by_storage():
    """Of two guests with disks on one storage, from the first reading of each on."""
    sums = Sums()
    sums.place("a", {"vda": NFS, "vdb": RBD}, 0)
    sums.place("b", {"vda": NFS}, 0)
    for a, b in ((100, 1000), (105, 1000), (107, 1001)):
        sums.take("a", [("vda", disk(a)), ("vdb", disk(2 * a))])
        sums.take("b", [("vda", disk(b))])
    assert shown(sums) == {NFS: 8, RBD: 14}
    assert shown(sums, key="flush_time_seconds") == {NFS: 8, RBD: 14}
    assert shown(sums, key="disks") == {NFS: 2, RBD: 1}


def test_the_end_of_a_guest_takes_nothing_away():
    """What it did stays in the sum, and its next run begins anew."""
    sums = Sums()
    for run in range(3):
        sums.place("a", {"vda": NFS}, run)
        sums.take("a", [("vda", disk(10))])
        sums.take("a", [("vda", disk(30))])
        assert shown(sums) == {NFS: 20 * (run + 1)}
        sums.forget("a", run)
        assert shown(sums, run) == {NFS: 20 * (run + 1)}
        assert shown(sums, run, "disks") == {NFS: 0}


def test_a_disk_that_moves_is_counted_where_it_is():
    """What it did before stays with the storage that did it."""
    sums = Sums()
    sums.place("a", {"vda": NFS}, 0)
    sums.take("a", [("vda", disk(1))])
    sums.take("a", [("vda", disk(5))])
    sums.place("a", {"vda": RBD}, 0)
    sums.take("a", [("vda", disk(6))])
    assert shown(sums) == {NFS: 4, RBD: 1}
    assert shown(sums, key="disks") == {NFS: 0, RBD: 1}


def test_what_a_disk_does_before_its_storage_is_known_is_counted_later():
    """A guest is polled before it is described; nothing of it is lost."""
    sums = Sums()
    for number in (1, 4, 9):
        sums.take("a", [("vda", disk(number))])
    assert shown(sums) == {}
    sums.place("a", {"vda": NFS}, 0)
    sums.take("a", [("vda", disk(11))])
    assert shown(sums) == {NFS: 10}


def test_a_disk_that_is_plugged_again_begins_at_zero():
    """Its counters are smaller than before: all of them count."""
    sums = Sums()
    sums.place("a", {"vda": NFS}, 0)
    for counters in (disk(100), disk(110), (3, 120, *disk(4)[2:])):
        sums.take("a", [("vda", counters)])
    assert shown(sums) == {NFS: 13}
    assert shown(sums, key="read_bytes") == {NFS: 130}


def test_a_disk_that_is_missing_for_a_while_loses_nothing():
    """A busy monitor leaves its disks out of an answer."""
    sums = Sums()
    sums.place("a", {"vda": NFS}, 0)
    for disks in ([("vda", disk(1))], [], [("vda", disk(8))]):
        sums.take("a", disks)
    assert shown(sums) == {NFS: 7}


def test_storages_do_not_become_ever_more():
    """One without disks goes after an hour, and beyond so many all further ones are one."""
    sums = Sums()
    for number in range(STORAGES_MAX + 50):
        sums.place(f"u{number}", {"vda": ("device", f"/dev/sd{number}")}, 0)
        sums.take(f"u{number}", [("vda", disk(1))])
        sums.take(f"u{number}", [("vda", disk(2))])
    assert len(shown(sums)) == STORAGES_MAX + 1
    assert shown(sums)[OTHERS] == shown(sums, key="disks")[OTHERS] == 50
    for number in range(STORAGES_MAX + 50):
        sums.forget(f"u{number}", 5)
    assert len(shown(sums, 5 + KEPT_SECONDS)) == STORAGES_MAX + 1
    assert shown(sums, 6 + KEPT_SECONDS) == {}
