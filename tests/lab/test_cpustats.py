"""CPU time per host CPU and limits of real guests, as virsh shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, Popen

import pytest

from lab.support.hypervisor import Lab
from lab.support.keeper import cgroup_versions
from lab.support.machine import wait_until
from support.agent import Agent, running


CPU_STATS = "[cpu_stats]\nenabled = true\ninterval_seconds = 1.0\n"
PER_CPU = "libvirt_domain_cpu_stats_"
TOTALS = "libvirt_domain_info_cpu_"
TUNABLE = "libvirt_domain_tunable_"
NODES = "<numatune><memory mode='interleave' nodeset='0'/></numatune>"
Times = dict[tuple[str, str], float]


def needs(version: str) -> None:
    """Skip where the machine has no such cgroups."""
    if version not in cgroup_versions():
        pytest.skip(f"this machine's cgroups are not {version}")


def virsh_times(lab: Lab, name: str) -> Times:
    """Return what `virsh cpu-stats` shows: by CPU number, or Total, and kind."""
    times: Times = {}
    cpu = ""
    for line in lab.virsh("cpu-stats", lab.uuid(name)).splitlines():
        if found := re.match(r"(?:CPU)?(\w+):", line):
            cpu = found[1]
        elif found := re.match(r"\s*(\w+)\s+([\d.]+) seconds", line):
            times[cpu, found[1]] = float(found[2])
    return times


def page_times(agent: Agent, name: str) -> Times:
    """Return the same from the page, and the overhead."""
    times: Times = {}
    for (family, labels), value in agent.samples().items():
        of = dict(labels)
        if of.get("domain") != name:
            continue
        if family.startswith(PER_CPU):
            times[of["cpu"], family[len(PER_CPU) :].removesuffix("_seconds_total")] = value
        elif family.startswith(TOTALS):
            kind = family[len(TOTALS) :].removesuffix("_seconds_total")
            times["Total", "cpu_time" if kind == "time" else f"{kind}_time"] = value
    return times


def next_polls(agent: Agent, *tiers: str) -> None:
    """Let polls begin and end that had not begun yet."""
    begun = {tier: agent.value("virtstatd_ticks_total", tier=tier) or 0 for tier in tiers}
    for tier, count in begun.items():
        agent.wait_for(
            partial(
                lambda t, c: (agent.value("virtstatd_ticks_total", tier=t) or 0) > c + 2,
                tier,
                count,
            )
        )


@contextmanager
def job_taken(lab: Lab, name: str) -> Iterator[None]:
    """Have a stuck guest's job taken by a call that waits for its monitor."""
    with lab.stuck(name):
        argv = ["virsh", "--connect", lab.uri, "domstats", "--block", lab.uuid(name)]
        with Popen(argv, stdout=DEVNULL, stderr=DEVNULL) as waiting:
            try:
                occupied = lambda: "occupied" in lab.virsh("domcontrol", lab.uuid(name))  # noqa: E731
                wait_until(occupied, "the job to be taken")
                yield
                assert waiting.poll() is None, "the guest was not stuck"
            finally:
                waiting.kill()


def test_times_per_host_cpu_are_virshs(tmp_path: Path):
    """Every number lies between virsh's before and after; those of a stuck guest are there too."""
    needs("v1")
    with Lab("v1") as lab:
        lab.create(lab.definition("busy", kvm=False), paused=False)  # its firmware runs
        lab.paused_guests(2)
        with running(tmp_path, lab.uri_readonly, more=CPU_STATS) as agent:
            agent.wait_for(lambda: page_times(agent, "busy"))
            before = {name: virsh_times(lab, name) for name in ("busy", "guest-0")}
            next_polls(agent, "cpu_stats", "monitor")
            ours: dict[str, Times] = {}

            def complete() -> bool:  # on a busy machine a poll may come late
                ours.update((name, page_times(agent, name)) for name in before)
                return all(ours[name].keys() >= before[name].keys() for name in before)

            agent.wait_for(complete)
            after = {name: virsh_times(lab, name) for name in before}
            for name, times in ours.items():
                low, high = before[name], after[name]
                overhead = {cpu for cpu, kind in times if kind == "overhead"}
                assert {key for key in times if key[1] != "overhead"} == set(low) == set(high)
                assert overhead == {cpu for cpu, _ in low} - {"Total"}
                for cpu, kind in low:
                    assert low[cpu, kind] <= times[cpu, kind] <= high[cpu, kind], (name, cpu, kind)
                for cpu in overhead:
                    whole = times[cpu, "cpu_time"] - times[cpu, "vcpu_time"]
                    assert 0 <= times[cpu, "overhead"] <= whole + 0.01  # since the agent's start
            moved = {key for key, value in before["busy"].items() if after["busy"][key] > value}
            assert moved >= {("Total", "cpu_time")}
            assert any(kind == "vcpu_time" for _, kind in moved)
            assert agent.value("virtstatd_cpu_stats_supported") == 1
            with job_taken(lab, "guest-1"):
                next_polls(agent, "cpu_stats")
                assert agent.value("virtstatd_missing_domains", tier="cpu_stats") == 0
                overdue = {"tier": "cpu_stats", "outcome": "overdue"}
                assert agent.value("virtstatd_calls_total", **overdue) == 0
                times = page_times(agent, "guest-1")
                assert {key for key in page_times(agent, "guest-0") if key[0] != "Total"} == {
                    key for key in times if key[0] != "Total"
                }


def test_a_refusal_is_said_once_and_totals_stay(tmp_path: Path):
    """Where cgroups are of both versions libvirt tells no time per CPU, and the totals it has."""
    needs("hybrid")
    with Lab("hybrid") as lab:
        lab.paused_guests(3)
        with running(tmp_path, lab.uri_readonly, more=CPU_STATS) as agent:
            agent.wait_for(lambda: agent.value("virtstatd_cpu_stats_supported") == 0)
            totals = {("Total", kind) for kind in ("cpu_time", "user_time", "system_time")}
            agent.wait_for(lambda: page_times(agent, "guest-0").keys() == totals)
            (said,) = agent.events("cpu_stats.refused")
            assert "cgroup V2" in str(said["reason"])


def block_device() -> str:
    """Return a block device of this machine."""
    return next(str(path) for path in Path("/dev").iterdir() if path.is_block_device())


def virsh_limits(lab: Lab, name: str) -> dict[str, str]:
    """Return what virsh shows of all limits of a running guest, by libvirt's names."""
    rows: dict[str, str] = {}
    for command in ("schedinfo", "memtune", "blkiotune", "numatune"):
        for line in lab.virsh(command, lab.uuid(name), "--live").splitlines():
            key, _, value = line.partition(":")
            rows[key.strip()] = value.strip()
    return rows


def expected(limits: dict[str, str]) -> dict[tuple[str, str], float]:
    """Return what the page should say of virsh's limits: series, its label, and the value."""
    rows: dict[tuple[str, str], float] = {
        ("cpu_shares", ""): float(limits["cpu_shares"]),
        ("blkio_weight", ""): float(limits["weight"]),
    }
    for whom in ("vcpu", "emulator", "iothread", "global"):
        for what in ("period", "quota"):
            if (microseconds := int(limits[f"{whom}_{what}"])) > 0:
                rows[f"cpu_{what}_seconds", whom] = microseconds / 10**6
    for name in ("hard_limit", "soft_limit", "swap_hard_limit"):
        if limits[name] != "unlimited":
            rows[f"memory_{name}_bytes", ""] = int(limits[name]) * 1024
    for way in ("read", "write"):
        for what, unit in (("iops", "requests"), ("bytes", "bytes")):
            if text := limits[f"device_{way}_{what}_sec"]:
                device, number = text.split(",")
                rows[f"blkio_{way}_limit_{unit}_per_second", device] = int(number)
    if limits["numa_nodeset"]:
        rows["numa_info", f"{limits['numa_mode']} {limits['numa_nodeset']}"] = 1
    return rows


def page_limits(agent: Agent, name: str) -> dict[tuple[str, str], float]:
    """Return the same from the page."""
    return {
        (family.removeprefix(TUNABLE), " ".join(v for key, v in labels if key != "domain")): value
        for (family, labels), value in agent.samples().items()
        if family.startswith(TUNABLE) and dict(labels)["domain"] == name
    }


def test_limits_are_virshs(private_lab: Lab, tmp_path: Path):
    """All that virsh can limit is on the page after the event, a stuck guest's limits as well."""
    lab = private_lab
    lab.create(lab.definition("tuned", extra=NODES))
    uuid = lab.uuid("tuned")
    with job_taken(lab, "guest-0"), running(tmp_path, lab.uri_readonly) as agent:
        agent.wait_for(lambda: page_limits(agent, "guest-0"))
        assert page_limits(agent, "guest-0") == expected(virsh_limits(lab, "guest-0"))
        agent.wait_for(lambda: page_limits(agent, "tuned"))
        assert page_limits(agent, "tuned") == expected(virsh_limits(lab, "tuned"))
        lab.virsh("memtune", uuid, "--live", "--hard-limit", "500000", "--soft-limit", "300000")
        lab.virsh("blkiotune", uuid, "--live", "--weight", "500")
        for number, limit in enumerate(("read-iops", "write-iops", "read-bytes", "write-bytes")):
            value = f"{block_device()},{1000 + number}"
            lab.virsh("blkiotune", uuid, "--live", f"--device-{limit}-sec", value)
        for limit in ("cpu_shares=2048", "emulator_quota=60000", "vcpu_quota=50000"):
            lab.virsh("schedinfo", uuid, "--live", limit)
        agent.wait_for(lambda: page_limits(agent, "tuned").get(("cpu_quota_seconds", "vcpu")))
        assert page_limits(agent, "tuned") == expected(virsh_limits(lab, "tuned"))
        assert ("memory_hard_limit_bytes", "") in page_limits(agent, "tuned")
        assert ("numa_info", "interleave 0") in page_limits(agent, "tuned")
