"""Partitions of real guests, in the cgroups of this machine."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from lab.support.keeper import cgroup_versions
from support.agent import Agent, Series, running


GUESTS = {"/prod": 1, "/prod/db": 2, "/machine": 1}
TREE = [["/machine", "1", "4"], ["/prod", "3", "12"], ["/db", "2", "8"]]
NS = 1e-9
RARELY = 86400.0

# by file: what the test writes there, the number that must be shown, and its value
LIMITS = {
    "cpu.max": ("150000 100000", "cpu_limit", 1.5),
    "cpu.weight": ("300", "cpu_weight", 300),
    "memory.high": (str(1 << 29), "memory_high_bytes", 1 << 29),
    "memory.max": (str(1 << 30), "memory_limit_bytes", 1 << 30),
    "io.weight": ("70", "io_weight", 70),
    "cpu.cfs_quota_us": ("150000", "cpu_limit", 1.5),
    "cpu.shares": ("3072", "cpu_shares", 3072),
    "memory.soft_limit_in_bytes": (str(1 << 29), "memory_high_bytes", 1 << 29),
    "memory.limit_in_bytes": (str(1 << 30), "memory_limit_bytes", 1 << 30),
    "blkio.bfq.weight": ("70", "io_weight", 70),
}
DEVICE_LIMITS = {
    "io.max": ("{} wbps=1048576", "io_write_limit_bytes_per_second"),
    "blkio.throttle.write_bps_device": ("{} 1048576", "io_write_limit_bytes_per_second"),
}


def limited(lab: Lab, version: str, partition: str) -> dict[tuple[str, str], float]:
    """Limit a partition by every file that this machine has; return what must be shown."""
    disk = next(Path("/sys/block").iterdir())
    device = (disk / "dev").read_text().strip()
    shown: dict[tuple[str, str], float] = {}
    for group in lab.trace.groups:
        if version != "hybrid" and (group / "cgroup.controllers").exists() != (version == "v2"):
            continue  # a hierarchy that this lab does not see
        folder = group / partition
        for name, (text, number, value) in LIMITS.items():
            if (folder / name).exists():
                (folder / name).write_text(text)
                shown[number, ""] = value
        for name, (text, number) in DEVICE_LIMITS.items():
            if (folder / name).exists():
                (folder / name).write_text(text.format(device))
                shown[number, device] = 1 << 20
    return shown


def numbers(agent: Agent, partition: str) -> dict[tuple[str, str], float]:
    """Return what is shown of a partition, by name and device."""
    return {
        (name.removeprefix("libvirt_partition_"), dict(labels).get("device", "")): value
        for (name, labels), value in agent.samples().items()
        if name.startswith("libvirt_partition_") and dict(labels)["partition"] == partition
    }


def sums(samples: dict[Series, float], name: str) -> dict[str, float]:
    """Return one number of every partition."""
    return {
        dict(labels)["partition"]: value
        for (family, labels), value in samples.items()
        if family == f"libvirt_partition_{name}"
    }


def expected(samples: dict[Series, float], name: str, unit: float = NS) -> dict[str, int]:
    """Return what the numbers of the single guests amount to on every level, in whole units."""
    found: Counter[str] = Counter()
    for (family, labels), value in samples.items():
        if family == name:
            path = dict(labels)["domain"].rpartition("-")[0].replace("_", "/")
            for level in {"/prod", path} if path.startswith("/prod") else {path}:
                found[level] += round(value / unit)
    return dict(found)


def shown_vcpus(agent: Agent) -> int:
    """Return of how many vCPUs the run time is shown; the lane's first reading is held back."""
    return sum(name == "libvirt_domain_vcpu_time_seconds_total" for name, _ in agent.samples())


def made_blind(lab: Lab, version: str) -> set[str]:
    """Switch the pressure of a guest's group off, on version 2; return what is not counted."""
    if version != "v2":
        return set()
    path = Path(f"/proc/{lab.qemu_pid('_machine-0')}/cgroup").read_text().rpartition("0::")[2]
    root = next(group for group in lab.trace.groups if (group / "cgroup.controllers").exists())
    folder = root.parent / path.strip().lstrip("/").removesuffix("/emulator")
    (folder / "cgroup.pressure").write_text("0")
    files = {"memory": "memory.current", "io": "io.stat", "cpu pressure": "cpu.pressure"}
    return {what for what, file in files.items() if not (folder / file).exists()}


@contextmanager
def printing(config: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `virtstatd partitions` beside the test."""
    argv = [sys.executable, "-m", "virtstatd", "partitions", "--config", str(config)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True) as command:
        try:
            yield command
        finally:
            command.kill()


@pytest.mark.parametrize("version", ["v1", "v2", pytest.param("hybrid", marks=pytest.mark.soak)])
def test_partitions_are_summed_and_limited(version: str, tmp_path: Path):
    """Guests in /prod, /prod/db and /machine: sums of every level are exact, limits shown."""
    if version not in cgroup_versions():
        pytest.skip(f"this machine's cgroups are not {version}")
    with Lab(version) as lab:
        lab.make_partition("/prod/db")
        limits = limited(lab, version, "prod.partition")
        # what guests used before the agent came is not counted, so it comes first
        with running(tmp_path, lab.uri_readonly, monitor=RARELY, extra=RARELY, local=True) as agent:
            agent.wait_for(lambda: (agent.value("virtstatd_local_ticks_total") or 0) > 0)
            lab.create(
                *[
                    lab.definition(f"{path.replace('/', '_')}-{number}", partition=path)
                    for path, count in GUESTS.items()
                    for number in range(count)
                ]
            )
            missing = made_blind(lab, version)
            vcpus = {"/machine": 4, "/prod": 12, "/prod/db": 8}
            agent.wait_for(lambda: sums(agent.samples(), "vcpus") == vcpus)
            agent.wait_for(lambda: shown_vcpus(agent) == 4 * sum(GUESTS.values()))
            samples = agent.samples()
            assert sums(samples, "domains") == {"/machine": 1, "/prod": 3, "/prod/db": 2}
            assert sums(samples, "domains_unseen") == {"/machine": 0, "/prod": 0, "/prod/db": 0}
            # of paused guests whose monitors are left alone neither moves, and readings of several
            # seconds are the same
            for name, family in (
                ("vcpu_time_seconds_total", "libvirt_domain_vcpu_time_seconds_total"),
                ("vcpu_delay_seconds_total", "libvirt_domain_vcpu_delay_seconds_total"),
            ):
                summed = {path: round(n / NS) for path, n in sums(samples, name).items()}
                assert summed == expected(samples, family), name
            used = sums(samples, "domains_cpu_seconds_total")
            own = sums(samples, "cpu_seconds_total")
            assert 0 < used["/prod/db"] < used["/prod"]
            # the levels' own groups were read later, and count what ended in them as well
            assert all(own[path] >= used[path] - NS for path in used)
            shown = numbers(agent, "/prod")
            assert {key: shown.get(key) for key in limits} == limits
            assert version == "v2" or len(limits) >= 4, "what this kernel limits, it shows"
            assert not {key for key in numbers(agent, "/prod/db") if "limit" in key[0]}
            assert {str(line["what"]) for line in agent.events("local.blind")} >= missing
            with printing(tmp_path / "virtstatd.toml") as command:
                printed, faults = command.communicate(timeout=60)
        assert faults == ""
        assert [line.split()[:3] for line in printed.splitlines()[1:]] == TREE
        if ("memory_limit_bytes", "") in limits:
            assert "1.0 GiB" in printed.splitlines()[2]
