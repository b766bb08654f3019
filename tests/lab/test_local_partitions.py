"""Partitions of real guests, in the cgroups of this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.hypervisor import Lab
from lab.keeper import cgroup_versions
from running import Agent, running


LIMIT = 1 << 30
GUESTS = {"/prod": 1, "/prod/db": 2, "/machine": 1}


def limit(lab: Lab) -> str:
    """Limit /prod in whichever version is there; return the name of the limit."""
    for group in lab.trace.groups:
        folder = group / "prod.partition"
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (folder / name).exists():
                (folder / name).write_text(str(LIMIT))
                return name
    raise AssertionError("no memory controller anywhere")


def sums(agent: Agent, name: str) -> dict[str, float]:
    """Return one number of every partition."""
    return {
        dict(labels)["partition"]: value
        for (family, labels), value in agent.samples().items()
        if family == f"libvirt_partition_{name}"
    }


@pytest.mark.parametrize("version", ["v1", "v2", "hybrid"])
def test_partitions_are_summed_and_limited(version: str, tmp_path: Path):
    """Guests in /prod, /prod/db and /machine: sums, the partitions' own numbers, a limit."""
    if version not in cgroup_versions():
        pytest.skip(f"this machine's cgroups are not {version}")
    with Lab(version) as lab:
        lab.make_partition("/prod/db")
        limit(lab)
        for path, count in GUESTS.items():
            names = lab.paused_guests(count, path.strip("/").replace("/", "-"), partition=path)
            assert len(names) == count
        with running(tmp_path, lab.uri_readonly, local=True) as agent:
            agent.wait_for(lambda: sums(agent, "domains").get("/prod/db") == 2)
            assert sums(agent, "domains") == {"/machine": 1, "/prod": 3, "/prod/db": 2}
            assert sums(agent, "vcpus") == {"/machine": 4, "/prod": 12, "/prod/db": 8}
            used = sums(agent, "domains_cpu_seconds_total")
            assert used["/prod"] > used["/prod/db"] > 0
            assert sums(agent, "memory_limit_bytes")["/prod"] == LIMIT
            assert "/prod/db" not in sums(agent, "memory_limit_bytes")
            assert sums(agent, "memory_bytes")["/prod"] > sums(agent, "memory_bytes")["/prod/db"]
        printed = subprocess.run(
            [
                sys.executable,
                "-m",
                "virtstatd",
                "partitions",
                "--config",
                tmp_path / "virtstatd.toml",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert printed.stderr == ""
        rows = [line.split()[:3] for line in printed.stdout.splitlines()[1:]]
        assert rows == [["/machine", "1", "4"], ["/prod", "3", "12"], ["/db", "2", "8"]]
        assert "1.0 GiB" in printed.stdout.splitlines()[2]
