"""Jobs of real guests: followed while they run, counted when they end."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from lab.support.migration import migration
from lab.support.namespaces import Trace
from support.agent import Agent, running


JOBS = "[jobs]\ninterval_seconds = 1\ndiscovery_seconds = 5\n"
INFO = "libvirt_domain_job_info_"
BACKUP = """
<domainbackup mode='pull'><server transport='unix' socket='{folder}/nbd'/><disks>
  <disk name='vda' type='file'><scratch file='{folder}/scratch.qcow2'/></disk>
  <disk name='vdb' backup='no'/>
</disks></domainbackup>
"""


@pytest.fixture
def two(traces: list[Trace]) -> Iterator[tuple[Lab, Lab]]:
    """Two hypervisors without guests."""
    with ExitStack() as stack:
        labs = []
        for _ in range(2):
            labs.append(stack.enter_context(Lab()))
            traces.append(labs[-1].trace)
        yield labs[0], labs[1]


def ended(agent: Agent) -> Callable[[str, str], float | None]:
    """Return a function that says how many jobs of a kind have ended."""

    def count(operation: str, outcome: str) -> float | None:
        return agent.value("libvirt_jobs_total", operation=operation, outcome=outcome)

    return count


@pytest.mark.timeout(600)
def test_a_migration_a_backup_and_a_copy(two: tuple[Lab, Lab], tmp_path: Path):
    """Each is seen without an event of its beginning, and its end is counted with its numbers."""
    here, there = two
    uuid = here.live_guest("busy", memory_mib=192).uuid
    with running(tmp_path, here.uri_readonly, more=JOBS) as agent:
        over = ended(agent)
        agent.wait_for(lambda: over("backup", "completed") == 0)
        copy = str(tmp_path / "copy.raw")
        here.virsh("blockcopy", uuid, "vda", copy, "--transient-job", "--bandwidth", "1")
        block = {"domain": "busy", "target_device": "vda"}
        agent.wait_for(lambda: agent.value("libvirt_domain_block_job_total_bytes", **block))
        here.virsh("blockjob", uuid, "vda", "--abort")
        agent.wait_for(lambda: over("block_copy", "canceled") == 1)
        agent.wait_for(lambda: agent.value("libvirt_domain_block_job_total_bytes", **block) is None)

        (tmp_path / "backup.xml").write_text(BACKUP.format(folder=tmp_path))
        here.virsh("backup-begin", uuid, str(tmp_path / "backup.xml"))
        seen = {"domain": "busy", "operation": "backup"}
        agent.wait_for(lambda: agent.value(f"{INFO}operation", **seen) == 9)
        assert agent.value(f"{INFO}type", domain="busy") == 2
        here.virsh("domjobabort", uuid)
        agent.wait_for(lambda: over("backup", "canceled") == 1)
        last = {"domain": "busy", "operation": "backup", "outcome": "canceled"}
        agent.wait_for(lambda: agent.value("libvirt_domain_last_job_duration_seconds", **last))
        agent.wait_for(lambda: agent.value(f"{INFO}type", domain="busy") is None)

        here.virsh("dump", uuid, str(tmp_path / "core"), "--memory-only", "--live")
        here.virsh("migrate-setspeed", uuid, "8")
        moving = subprocess.Popen(migration(here, there, uuid), stdout=subprocess.DEVNULL)
        try:
            moves = {"domain": "busy", "operation": "migration_out"}
            agent.wait_for(lambda: agent.value(f"{INFO}operation", **moves) == 5)
            agent.wait_for(lambda: agent.value(f"{INFO}memory_remaining_bytes", domain="busy"))
            print({key: value for key, value in agent.samples().items() if INFO in key[0]})
            here.virsh("migrate-setspeed", uuid, "1000")
            assert moving.wait(300) == 0
        finally:
            moving.kill()
            moving.wait()
        there.definitions["busy"] = here.definitions.pop("busy")
        agent.wait_for(lambda: over("migration_out", "completed") == 1)
        how = {"operation": "migration_out", "outcome": "completed"}
        processed = agent.value("libvirt_job_processed_bytes_total", **how)
        assert processed
        assert processed > 1 << 20
        assert agent.value("libvirt_last_job_duration_seconds", **how)
        agent.wait_for(lambda: agent.value(f"{INFO}type", domain="busy") is None)
        print({key: value for key, value in agent.samples().items() if "job" in key[0] and value})
        assert not agent.events("jobs.refused")
