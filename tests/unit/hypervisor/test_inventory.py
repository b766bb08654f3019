"""Who runs."""

import threading

from virtstatd.hypervisor.inventory import Inventory
from virtstatd.model import Domain


class World:
    """An inventory, its clock, and who it said was gone."""

    def __init__(self, *, uuid: bool = False) -> None:
        self.now = 0.0
        self.gone: list[tuple[str, int]] = []
        self.inventory = Inventory(lambda: self.now, uuid=uuid)
        self.inventory.on_gone(self._gone)

    def _gone(self, domain: Domain) -> None:
        self.gone.append((domain.uuid, domain.id))


def test_a_domain_stays_the_same_object_while_it_runs():
    """Sinks may compare domains by identity: nothing is copied per poll."""
    world = World(uuid=True)
    first = world.inventory.see("u1", "vm", 1)

    assert first is world.inventory.see("u1", "vm", 1)
    assert first == Domain("u1", "vm", 1, (("domain", "vm"), ("uuid", "u1")))


def test_a_new_number_or_name_ends_the_incarnation_before():
    """A restart or a rename that no event told of ends the old series at once."""
    world = World()
    world.inventory.see("u1", "vm", 1)
    world.inventory.see("u1", "vm", 2)
    world.inventory.see("u1", "renamed", 2)

    assert world.gone == [("u1", 1), ("u1", 2)]
    assert len(world.inventory) == 1


def test_a_late_answer_brings_nobody_back():
    """An answer that was on its way when its domain ended does not revive the series."""
    world = World()
    world.inventory.see("u1", "vm", 1)
    world.inventory.end("u1")

    assert world.inventory.see("u1", "vm", 1) is None
    assert len(world.inventory) == 0


def test_a_start_is_believed_even_under_a_number_seen_before():
    """After a restart of libvirtd numbers begin anew; an event says that the domain is real."""
    world = World()
    world.inventory.see("u1", "vm", 1)
    world.inventory.end("u1")
    world.inventory.started("u1", "vm", 1)

    assert world.inventory.see("u1", "vm", 1) is not None


def test_a_late_end_is_that_of_the_run_before():
    """A poll saw the next run before the event of the former's end came: the next one lives on."""
    world = World()
    world.inventory.started("u1", "vm", 5)
    world.inventory.see("u1", "vm", 6)
    world.inventory.end("u1")
    world.inventory.started("u1", "vm", 6)
    assert world.gone == [("u1", 5)]
    assert world.inventory.get("u1") == Domain("u1", "vm", 6, (("domain", "vm"),))
    world.inventory.end("u1")
    assert world.gone == [("u1", 5), ("u1", 6)]


def test_a_late_end_after_a_list_had_ended_the_run_is_known_too():
    """The list ends run 5, a poll sees run 6, then the event of the end of run 5 comes."""
    world = World()
    world.inventory.started("u1", "vm", 5)
    world.inventory.reconcile(set(), 1.0)
    world.now = 2.0
    world.inventory.see("u1", "vm", 6)
    world.inventory.end("u1")
    assert world.inventory.uuids() == ["u1"]
    world.inventory.end("u1")  # the start's event was lost: the next end is believed
    assert world.inventory.uuids() == []


def test_two_threads_that_meet_a_domain_at_once_agree():
    """Both are given the same object, and nobody is told that it has gone."""
    for _ in range(20):
        world = World()
        inventory = world.inventory
        ready = threading.Barrier(2)
        seen: list[Domain | None] = []

        def meet(ready: threading.Barrier, seen: list[Domain | None], of: Inventory) -> None:
            ready.wait(10)
            seen.append(of.see("u1", "vm", 1))

        with inventory._lock:  # both have found no domain, and wait
            threads = [
                threading.Thread(target=meet, args=(ready, seen, inventory)) for _ in range(2)
            ]
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join(10)
        assert len(seen) == 2
        assert seen[0] is seen[1] is inventory.get("u1")
        assert world.gone == []


def test_another_start_under_the_same_number_is_another_run():
    """After a restart of libvirtd and of the guest the start of its process tells runs apart."""
    world = World()
    first = world.inventory.see("u1", "vm", 1)
    assert first
    assert world.inventory.begun(first, 100) is first
    assert world.inventory.begun(first, 100) is first
    assert world.gone == []
    second = world.inventory.begun(first, 200)
    assert world.gone == [("u1", 1)]
    assert second is not first
    assert world.inventory.get("u1") is second
    assert world.inventory.see("u1", "vm", 1) is second, "answers are for the run that lives"
    assert second
    assert world.inventory.begun(second, 100) is None, "what is left of the former is nobody's"
    assert world.inventory.begun(first, 200) is None, "a run that has ended stays so"
    world.inventory.end("u1")
    assert world.gone == [("u1", 1), ("u1", 1)]


def test_a_list_ends_whom_it_does_not_hold_but_not_the_newborn():
    """A domain that started while the list was on its way is not ended by it."""
    world = World()
    world.inventory.see("old", "old", 1)
    world.now = 10.0
    asked_at = world.now
    world.now = 10.1
    world.inventory.see("new", "new", 2)
    world.inventory.reconcile(set(), asked_at)

    assert world.gone == [("old", 1)]
    assert world.inventory.uuids() == ["new"]


def test_a_connect_begins_anew():
    """Whoever ended while libvirt was away is gone, everybody else is described again."""
    world = World()
    world.inventory.see("stays", "stays", 1)
    world.inventory.see("ended", "ended", 2)
    assert len(world.inventory.take_stale(9)) == 2
    world.now = 5.0
    world.inventory.restart([("stays", "stays", 1), ("came", "came", 3)])

    assert world.gone == [("ended", 2)]
    assert {domain.name for domain in world.inventory.take_stale(9)} == {"stays", "came"}
    assert world.inventory.take_stale(9) == []


def test_a_description_of_the_past_is_not_kept():
    """What the XML of an ended incarnation said is not shown for the next one."""
    world = World()
    before = world.inventory.see("u1", "vm", 1)
    world.inventory.see("u1", "vm", 2)
    assert before is not None
    world.inventory.describe(before, ("old",))  # type: ignore[arg-type]

    assert world.inventory.descriptions() == ()


def test_a_change_asks_for_one_new_description():
    """Ten events of one domain cost one reading of its XML; unknown domains none."""
    world = World()
    world.inventory.see("u1", "vm", 1)
    for _ in range(10):
        world.inventory.change("u1")
    world.inventory.change("nobody")

    assert len(world.inventory.take_stale(9)) == 1
    assert world.inventory.take_stale(9) == []


def test_whoever_describes_is_told_once_until_all_are_taken():
    """However many domains come, one call; the next one after the last of them was taken."""
    told: list[int] = []
    inventory = Inventory(lambda: 0.0)
    inventory.on_stale(lambda: told.append(len(inventory)))
    for number in range(3):
        inventory.see(f"u{number}", "vm", 1)
    assert (len(inventory.take_stale(2)), len(told)) == (2, 1)
    inventory.change("u0")
    assert (len(inventory.take_stale(2)), len(told)) == (2, 1)
    inventory.change("u0")
    assert len(told) == 2
