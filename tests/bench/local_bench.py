"""
What a look of the local lane costs, in µs of CPU per vCPU and for a host of 300 guests.

Run with `PYTHONPATH=agent:tests python tests/bench/local_bench.py [FILE.json]`. The trees are files
on a disk's cache, not the kernel's, so they show what is ours and that it is linear; with `--real`
a lab of 300 real guests is read beside them, as root.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from lab.hypervisor import Lab
from proctree import Tree
from virtstatd.catalog import load
from virtstatd.local.cover import Cover
from virtstatd.local.files import Descriptors
from virtstatd.local.shapes import GROUPS, Shapes
from virtstatd.local.survey import Survey
from virtstatd.model import Batch, Domain, Reading


LOOKS = 30
SIZES = ((250, 8), (500, 8), (1000, 8))
REAL = 300
CATALOG = load()
TARGET_MILLISECONDS = 25.0

Running = list[tuple[Domain, Sequence[Reading]]]
Result = dict[str, float | int | str]


def measured(name: str, survey: Survey, vcpus: int) -> Result:
    """Look again and again, and hand over as the agent does; return the median's cost."""
    cover = Cover(lambda _: None, 5.0)
    spent = []
    for _ in range(LOOKS):
        began = time.process_time()
        second = survey.look()
        cover.take(Batch("local", second.taken_at, tuple(second.readings), GROUPS))
        spent.append((time.process_time() - began) * 1e3)
    survey.close()
    guests = len({reading.domain.uuid for reading in second.readings if reading.domain})
    cost = median(spent[1:])
    return {
        "name": name,
        "guests": guests,
        "vcpus": guests * vcpus,
        "first_milliseconds": round(spent[0], 2),
        "milliseconds": round(cost, 2),
        "microseconds_per_vcpu": round(cost * 1e3 / (guests * vcpus), 2),
    }


def surveyed(directory: Path, running: Callable[[], Running], proc: Path) -> Survey:
    """Return a survey that keeps every file open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return Survey(directory, running, Shapes(load()), Descriptors(hard - 1024), 60, proc)


def domain(uid: str, name: str, number: int) -> tuple[Domain, tuple[Reading, ...]]:
    """Return a domain with one interface, as its description has it."""
    labels = {"target_device": f"vnet{number - 1}", "interface_type": "ethernet"}
    known = Domain(uid, name, number, (("domain", name),))
    return known, (Reading(known, CATALOG.shape("domain", [("nic", labels)]), (1,)),)


def tree(guests: int, vcpus: int) -> Result:
    """Measure a tree of files."""
    with tempfile.TemporaryDirectory(prefix="virtstatd-bench-") as folder:
        made = Tree(Path(folder))
        row = "{:>6}: 123456 1234 0 0 0 0 0 0 654321 4321 0 0 0 0 0 0\n"
        rows = "".join(row.format(f"vnet{at}") for at in range(guests))
        running = []
        for at in range(guests):
            uid, name = str(uuid.UUID(int=at)), f"guest-{at}"
            made.start(1000 + 100 * at, uid, name, at + 1, vcpus=vcpus, links="")
            running.append(domain(uid, name, at + 1))
        for pid in made.proc.iterdir():
            made.table(int(pid.name), rows)
        survey = surveyed(made.pids, lambda: running, made.proc)
        return measured("tree of files", survey, vcpus)


def real() -> Result:
    """Measure a lab of paused guests."""
    with Lab() as lab:
        names = lab.paused_guests(REAL)
        ids = [line.split()[:2] for line in lab.virsh("list").splitlines()[2:] if line]
        numbers = {name: int(number) for number, name in ids}
        running = [domain(lab.uuid(name), name, numbers[name]) for name in names]
        survey = surveyed(lab.directory / "run/qemu", lambda: running, Path("/proc"))
        return measured("real guests", survey, 4)


def main() -> None:
    """Print a line per size, and write them as JSON where a file is named."""
    results = [tree(*size) for size in SIZES]
    if "--real" in sys.argv:
        results.append(real())
        verdict = "within" if float(results[-1]["milliseconds"]) <= TARGET_MILLISECONDS else "above"
        sys.stdout.write(f"real guests: {verdict} {TARGET_MILLISECONDS:.0f} ms a second\n")
    for result in results:
        sys.stdout.write(
            "{name:>14}: {guests:5} guests, {vcpus:5} vCPUs: {milliseconds:7.2f} ms a look, "
            "{microseconds_per_vcpu:5.2f} µs per vCPU (first {first_milliseconds:.0f} ms)\n".format(
                **result
            )
        )
    for name in sys.argv[1:]:
        if not name.startswith("--"):
            Path(name).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
