"""Which guests stand still, told without asking them."""

from pathlib import Path

import pytest

from support.processes import Tree
from virtstatd.catalog import load
from virtstatd.collect.bulk.control import Stalls, Verdicts
from virtstatd.hypervisor.processes import Processes
from virtstatd.model import Domain


def uuid_of(number: int) -> str:
    """Return a guest's UUID."""
    return f"{number:08x}-1111-4111-8111-111111111111"


def guest(tree: Tree, name: str, pid: int, state: str) -> Domain:
    """Start a guest whose process is in a state."""
    tree.start(pid, uuid_of(pid), name, 1)
    tree.stat(pid, threads=3, state=state)
    return Domain(uuid_of(pid), name, 1, (("domain", name),))


def test_stopped_and_waiting_processes_are_told_from_healthy_ones(tmp_path: Path):
    """Stopped is stalled at once, waiting for a disk only when it stays so, the rest is well."""
    tree = Tree(tmp_path)
    domains = [
        guest(tree, "runs", 1, "R"),
        guest(tree, "sleeps", 2, "S"),
        guest(tree, "stopped", 3, "T"),
        guest(tree, "dead-disk", 4, "D"),
        guest(tree, "busy-disk", 5, "D"),
        guest(tree, "a&quot;b&amp;c", 6, "T"),
        Domain(uuid_of(7), "unknown", 1, ()),
    ]
    looks = []

    def pause(_: float) -> None:
        looks.append(1)
        tree.stat(5, threads=3, state="S")

    stalled = Stalls(Processes(tree.pids, tree.proc), pause).among(domains)
    assert set(stalled) == {uuid_of(3), uuid_of(4), uuid_of(6)}
    assert "storage" in stalled[uuid_of(4)]
    assert looks == [1, 1]


def test_a_process_is_a_guests_only_if_it_proves_it(tmp_path: Path):
    """A stale pid file leads to another run's process, or to another guest's: neither counts."""
    tree = Tree(tmp_path)
    guest(tree, "vm", 1, "T")
    stalls = Stalls(Processes(tree.pids, tree.proc))

    assert stalls.among([Domain(uuid_of(1), "vm", 2, ())]) == {}
    assert stalls.among([Domain(uuid_of(9), "vm", 1, ())]) == {}
    assert set(stalls.among([Domain(uuid_of(1), "vm", 1, ())])) == {uuid_of(1)}


def test_without_anything_to_read_everybody_is_well(tmp_path: Path):
    """A directory that is not there hides nobody: the question is simply asked."""
    stalls = Stalls(Processes(tmp_path / "nowhere", tmp_path / "nowhere"))

    assert stalls.among([Domain("u", "vm", 1, ())]) == {}


@pytest.mark.parametrize("responsive", [True, False])
def test_a_verdict_names_the_state_of_the_monitor(responsive: bool):
    """The number, its name and its age go out; without an answer there is only the verdict."""
    verdicts = Verdicts(load())
    domain = Domain("u", "vm", 1, (("domain", "vm"),))
    full = verdicts.reading(domain, (2, 0, 36015), responsive=responsive)
    bare = verdicts.reading(domain, None, responsive=responsive)

    names = [series.field.family for series in full.shape.series]
    assert names == [
        "libvirt_domain_control_state",
        "libvirt_domain_control_state_age_seconds",
        "virtstatd_domain_responsive",
    ]
    assert full.shape.series[0].labels == (("state", "occupied"),)
    assert full.values == (2, 36015, int(responsive))
    assert bare.values == (int(responsive),)
