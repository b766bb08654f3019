"""Which guests stand still, told without asking them."""

from pathlib import Path

import pytest

from virtstatd.catalog import load
from virtstatd.collect.bulk.control import Stalls, Verdicts
from virtstatd.model import Domain


def guest(folder: Path, name: str, pid: int, state: str, file: str | None = None) -> Domain:
    """Write what libvirt and the kernel keep of a guest's process."""
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / f"{file or name}.pid").write_text(f"{pid}\n")
    (folder / "proc" / str(pid)).mkdir(parents=True, exist_ok=True)
    (folder / "proc" / str(pid) / "stat").write_text(f"{pid} (qemu (x) y) {state} 1 2 3")
    return Domain(f"uuid-{name}", name, 1, (("domain", name),))


def test_stopped_and_waiting_processes_are_told_from_healthy_ones(tmp_path: Path):
    """Stopped is stalled at once, waiting for a disk only when it stays so, the rest is well."""
    domains = [
        guest(tmp_path, "runs", 1, "R"),
        guest(tmp_path, "sleeps", 2, "S"),
        guest(tmp_path, "stopped", 3, "T"),
        guest(tmp_path, "dead-disk", 4, "D"),
        guest(tmp_path, "busy-disk", 5, "D"),
        guest(tmp_path, 'a"b&c', 6, "T", "a&quot;b&amp;c"),
        Domain("uuid-unknown", "unknown", 1, ()),
    ]
    looks = []

    def pause(_: float) -> None:
        looks.append(1)
        guest(tmp_path, "busy-disk", 5, "S")

    stalled = Stalls(tmp_path / "run", tmp_path / "proc", pause).among(domains)
    assert set(stalled) == {"uuid-stopped", "uuid-dead-disk", 'uuid-a"b&c'}
    assert "storage" in stalled["uuid-dead-disk"]
    assert looks == [1, 1]


def test_without_anything_to_read_everybody_is_well(tmp_path: Path):
    """A directory that is not there hides nobody: the question is simply asked."""
    stalls = Stalls(tmp_path / "nowhere", tmp_path / "nowhere")

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
