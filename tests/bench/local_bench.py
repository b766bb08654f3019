"""
What a look of the local lane costs, in ms of CPU and in µs per reading of a vCPU.

Run with `PYTHONPATH=agent:tests python tests/bench/local_bench.py [--real [N]] [FILE.json]`. The
trees are files in memory, not the kernel's, so they show what is ours and that it is linear. Every
fact is read: times, memory, faults, interfaces, and of the cgroups those whose turn it is, or all
of them where that is said. `quiet` guests do nothing between two looks, `busy` ones change every
file. With `--real` a lab of N real guests (300) is read as well, as root, and an agent runs beside
it with and without the lane: the difference is what the lane costs with all that belongs to it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import structlog

from lab.support.hypervisor import Lab
from support.agent import Agent, running
from support.processes import Tree
from virtstatd.catalog import load
from virtstatd.collect.kernel.shapes import CGROUP_GROUPS, GROUPS, Shapes
from virtstatd.collect.kernel.survey import Survey
from virtstatd.hypervisor.processes import UNSETTLED_NANOSECONDS, Processes
from virtstatd.model import Batch, Domain, Reading
from virtstatd.pipeline.one_source import OneSource
from virtstatd.runtime.kernel_files import Descriptors
from virtstatd.serving.latest import Latest


LOOKS = 25
SIZES = (100, 300, 1000)
VCPUS = 8
REAL, REAL_VCPUS = 300, 4
TURNS = 5
AGENT_SECONDS = 30.0
RARELY = 86400.0
SPARED_DESCRIPTORS = 1024
CATALOG = load()
TARGET_MILLISECONDS = 25.0
PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total={0}\nfull avg10=0.00 total={0}\n"
CGROUP = {
    "cpu.stat": "usage_usec {0}\nuser_usec {0}\nsystem_usec 1\nnr_periods 0\nnr_throttled 0\n"
    "throttled_usec 0\n",
    "memory.current": "{0}\n",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    "io.stat": "8:0 rbytes={0} wbytes={0} rios=3 wios=4 dbytes=0 dios=0\n",
    "cpu.pressure": PRESSURE,
    "memory.pressure": PRESSURE,
    "io.pressure": PRESSURE,
}

Running = list[tuple[Domain, Sequence[Reading]]]
Result = dict[str, float | int | str]


class Trees:
    """Guests' processes and cgroups as files."""

    def __init__(self, folder: Path, guests: int) -> None:
        self.tree = Tree(folder)
        self.cgroups = folder / "cgroup"
        self.cgroups.mkdir()
        (self.cgroups / "cgroup.controllers").write_text("cpu memory io\n")
        self.running: Running = []
        self._pids = [1000 + 100 * at for at in range(guests)]
        for at, pid in enumerate(self._pids):
            uid, name = str(uuid.UUID(int=at)), f"guest-{at}"
            self.tree.start(pid, uid, name, at + 1, vcpus=VCPUS)
            self._folder(at).mkdir(parents=True)
            group = f"0::/{self._folder(at).relative_to(self.cgroups)}\n"
            (self.tree.proc / str(pid) / "cgroup").write_text(group)
            self.running.append(domain(uid, name, at + 1))
        self.move(1)

    def _folder(self, at: int) -> Path:
        return self.cgroups / "machine" / f"qemu-{at + 1}-guest-{at}.libvirt-qemu"

    def move(self, number: int) -> None:
        """Change every number of every guest."""
        row = "{:>6}: {} 1234 0 0 0 0 0 0 {} 4321 0 0 0 0 0 0\n"
        rows = "".join(row.format(f"vnet{at}", number, number) for at in range(len(self._pids)))
        self.tree.table(self._pids[0], rows)
        for at, pid in enumerate(self._pids):
            self.tree.stat(pid, threads=1 + VCPUS, minor=number)
            for thread in (pid, *(pid + 10 + vcpu for vcpu in range(VCPUS))):
                self.tree.times(pid, thread, number * 500_000_000, number * 20_000_000)
            for name, text in CGROUP.items():
                (self._folder(at) / name).write_text(text.format(number))


def measured(
    name: str,
    survey: Survey,
    vcpus: int,
    move: Callable[[int], None] = lambda _: None,
) -> Result:
    """Look again and again, and hand over as the agent does; return the median's cost."""
    latest = Latest(time.monotonic)
    passing = OneSource([latest.put], structlog.get_logger())
    looks, handed = [], []
    time.sleep(UNSETTLED_NANOSECONDS / 1e9)  # until then libvirt's directory is read at each look
    for at in range(LOOKS):
        move(at + 2)
        began = time.thread_time()
        second = survey.look()
        looked = time.thread_time()
        passing(Batch("local", second.taken_at, tuple(second.readings), GROUPS, 5.0))
        cgroups = tuple(second.cgroups)
        passing(Batch("local cgroup", second.taken_at, cgroups, CGROUP_GROUPS, 15.0))
        looks.append((looked - began) * 1e3)
        handed.append((time.thread_time() - looked) * 1e3)
    survey.close()
    guests = len({reading.domain.uuid for reading in second.readings if reading.domain})
    cost = median(looks[2:])
    return {
        "name": name,
        "guests": guests,
        "vcpus": guests * vcpus,
        "milliseconds": round(cost, 2),
        "handed_on_milliseconds": round(median(handed[2:]), 2),
        "microseconds_per_vcpu_reading": round(cost * 1e3 / (guests * vcpus), 2),
    }


def surveyed(
    directory: Path,
    running: Callable[[], Running],
    turns: int = TURNS,
    proc: Path = Path("/proc"),
    cgroups: Path = Path("/sys/fs/cgroup"),
) -> Survey:
    """Return a survey that keeps every file open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kept = Descriptors(hard - SPARED_DESCRIPTORS)
    processes = Processes(directory, proc)
    return Survey(processes, running, Shapes(load()), kept, 60, turns, proc, cgroups)


def domain(uid: str, name: str, number: int) -> tuple[Domain, tuple[Reading, ...]]:
    """Return a domain with one interface, as its description has it."""
    labels = {"target_device": f"vnet{number - 1}", "interface_type": "ethernet"}
    known = Domain(uid, name, number, (("domain", name),))
    return known, (Reading(known, CATALOG.shape("domain", [("nic", labels)]), (1,)),)


def trees(guests: int, *, busy: bool) -> Result:
    """Measure a tree of files."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="virtstatd-bench-", dir=memory) as folder:
        made = Trees(Path(folder), guests)
        survey = surveyed(made.tree.pids, lambda: made.running, TURNS, made.tree.proc, made.cgroups)
        if busy:
            return measured("files, busy", survey, VCPUS, made.move)
        return measured("files, quiet", survey, VCPUS)


def real(guests: int) -> list[Result]:
    """Measure a lab of paused guests, and an agent beside it."""
    with Lab() as lab:
        names = lab.paused_guests(guests)
        ids = [line.split()[:2] for line in lab.virsh("list").splitlines()[2:] if line]
        numbers = {name: int(number) for number, name in ids}
        running: list[tuple[Domain, Sequence[Reading]]] = [
            domain(lab.uuid(name), name, numbers[name]) for name in names
        ]
        directory = lab.directory / "run/qemu"
        return [
            *(
                measured(name, surveyed(directory, lambda: running, turns), REAL_VCPUS)
                for name, turns in (("real, in turn", TURNS), ("real, every file", 1))
            ),
            beside(lab, guests),
        ]


def beside(lab: Lab, guests: int) -> Result:
    """Return what an agent with the lane costs a second more than one without."""
    with_lane = agent_milliseconds(lab, local=True)
    without = agent_milliseconds(lab, local=False)
    return {
        "name": "real, agent",
        "guests": guests,
        "vcpus": guests * REAL_VCPUS,
        "milliseconds": round(with_lane - without, 2),
        "without_milliseconds": round(without, 2),
        "microseconds_per_vcpu_reading": round(
            (with_lane - without) * 1e3 / (guests * REAL_VCPUS), 2
        ),
    }


def agent_milliseconds(lab: Lab, *, local: bool) -> float:
    """Return the CPU time that an agent takes in a second once it has polled libvirt once."""
    with (
        tempfile.TemporaryDirectory(prefix="virtstatd-bench-") as folder,
        running(
            Path(folder),
            lab.uri_readonly,
            pulse=RARELY,
            monitor=RARELY,
            extra=RARELY,
            local=local,
            cgroup=float(TURNS),
        ) as agent,
    ):
        agent.wait_for(lambda: agent.value("libvirt_domains") == len(lab.definitions))
        if local:
            agent.wait_for(lambda: (agent.value("virtstatd_local_ticks_total") or 0) > 2 * TURNS)
        time.sleep(AGENT_SECONDS / 3)  # what the start has left to do
        began, spent = time.monotonic(), cpu_seconds(agent)
        time.sleep(AGENT_SECONDS)
        return (cpu_seconds(agent) - spent) / (time.monotonic() - began) * 1e3


def cpu_seconds(agent: Agent) -> float:
    """Return what a process and its threads have used, in the scheduler's nanoseconds."""
    tasks = Path(f"/proc/{agent.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def main() -> None:
    """Print a line per size, and write them as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", nargs="?", type=int, const=REAL, metavar="N")
    parser.add_argument("file", nargs="?", type=Path)
    options = parser.parse_args()
    results = [trees(size, busy=busy) for busy in (False, True) for size in SIZES]
    if options.real:
        results += real(options.real)
    for result in results:
        line = (
            "{name:>16}: {guests:5} guests, {vcpus:5} vCPUs: {milliseconds:7.2f} ms of CPU a look,"
            " {microseconds_per_vcpu_reading:5.2f} µs per vCPU-reading"
        )
        if "handed_on_milliseconds" in result:
            line += "; handing on {handed_on_milliseconds:.2f} ms"
        sys.stdout.write(line.format(**result) + "\n")
    if options.real:
        verdict = "within" if float(results[-1]["milliseconds"]) <= TARGET_MILLISECONDS else "above"
        sys.stdout.write(f"real guests: {verdict} {TARGET_MILLISECONDS:.0f} ms a second\n")
    if options.file:
        options.file.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
