"""CPU time per host CPU and limits, from a running agent and simulated guests."""

from __future__ import annotations

from pathlib import Path

from support.agent import Agent, running
from support.simulator import Simulated, python, simulated, virsh


CPU_STATS = "[cpu_stats]\nenabled = true\ninterval_seconds = 1.0\n"
NAME = "instance-00000001"


def per_cpu(agent: Agent, family: str) -> dict[int, float]:
    """Return a family's values by CPU."""
    name = f"libvirt_domain_cpu_stats_{family}_seconds_total"
    return {
        int(dict(labels)["cpu"]): value
        for (family, labels), value in agent.samples().items()
        if family == name
    }


def settled(host: Simulated, agent: Agent) -> None:
    """Stop the guests' time and wait until the page has that moment's numbers."""
    host.do("stop_time")
    polls = agent.value("virtstatd_ticks_total", tier="cpu_stats") or 0
    agent.wait_for(
        lambda: (agent.value("virtstatd_ticks_total", tier="cpu_stats") or 0) > polls + 2
    )


def test_4096_host_cpus_arrive_in_32_calls(tmp_path: Path):
    """Each poll of a guest is 32 calls of 128 CPUs after two for the sizes; every number is it."""
    options = ("--domains=1", "--cpus=4096", "--profile=small")
    with (
        simulated(tmp_path, *options) as host,
        running(tmp_path, host.uri, more=CPU_STATS) as agent,
    ):
        agent.wait_for(lambda: len(per_cpu(agent, "cpu_time")) == 4096)
        settled(host, agent)
        with python(host.uri) as ask:
            expected = ask("c.listAllDomains()[0].getCPUStats(False)")
        for family in ("cpu_time", "vcpu_time"):
            shown = per_cpu(agent, family)
            assert [round(shown[cpu] * 1e9) for cpu in range(4096)] == [
                each[family] for each in expected
            ]
        overhead = per_cpu(agent, "overhead")
        assert all(
            0 <= overhead[cpu] * 1e9 <= each["cpu_time"] - each["vcpu_time"] + 1
            for cpu, each in enumerate(expected)
        )
        assert agent.value("virtstatd_cpu_stats_supported") == 1
        agent.stop()
        calls = host.do("status")["calls"]["DOMAIN_GET_CPU_STATS"]
        polls, rest = divmod(calls, 2 + 32)
        assert rest == 0
        assert polls > 3


def test_a_host_that_refuses_keeps_its_totals(tmp_path: Path):
    """One call finds out and the log says it once; totals come from the poll that has them."""
    options = ("--domains=30", "--no-percpu", "--profile=small")
    with (
        simulated(tmp_path, *options) as host,
        running(tmp_path, host.uri, more=CPU_STATS) as agent,
    ):
        agent.wait_for(lambda: agent.value("virtstatd_cpu_stats_supported") == 0)
        polls = agent.value("virtstatd_ticks_total", tier="cpu_stats") or 0
        agent.wait_for(
            lambda: (agent.value("virtstatd_ticks_total", tier="cpu_stats") or 0) > polls + 2
        )
        assert host.do("status")["calls"]["DOMAIN_GET_CPU_STATS"] == 1
        assert len(agent.events("cpu_stats.refused")) == 1
        assert "cgroup V2" in str(agent.events("cpu_stats.refused")[0]["reason"])
        assert per_cpu(agent, "cpu_time") == {}
        assert agent.value("libvirt_domain_info_cpu_user_seconds_total", domain=NAME)


def test_totals_that_nobody_else_asks_for(tmp_path: Path):
    """Where no poll asks for CPU totals, they come with the CPU statistics, refused or not."""
    options = ("--domains=3", "--no-percpu", "--profile=small")
    with (
        simulated(tmp_path, *options) as host,
        running(tmp_path, host.uri, groups={"monitor": ["vcpu"]}, more=CPU_STATS) as agent,
    ):
        total = "libvirt_domain_info_cpu_time_seconds_total"
        agent.wait_for(lambda: agent.value(total, domain=NAME))
        settled(host, agent)
        shown = virsh(host.uri, "cpu-stats", NAME, "--total")
        for kind in ("time", "user", "system"):
            value = agent.value(f"libvirt_domain_info_cpu_{kind}_seconds_total", domain=NAME)
            assert f"{value:.9f} seconds" in shown
        assert len(agent.events("cpu_stats.refused")) == 1


def test_limits_follow_their_event(tmp_path: Path):
    """Limits that virsh shows are on the page soon after the event; without one they are absent."""
    tunable = "libvirt_domain_tunable_"
    with (
        simulated(tmp_path, "--domains=3", "--profile=small") as host,
        running(tmp_path, host.uri) as agent,
    ):
        agent.wait_for(lambda: agent.value(f"{tunable}cpu_shares", domain=NAME) == 1024)
        limits = [name for name, _ in agent.samples() if "limit" in name or "quota" in name]
        assert [name for name in limits if name.startswith(tunable)] == []
        host.do("tune", domains=[NAME], limits={"hard_limit": 500000})
        host.do("tune", domains=[NAME], limits={"device_read_bytes_sec": "/dev/sda,7"})
        host.do("tune", domains=[NAME], limits={"numa_mode": 2, "numa_nodeset": "0-1"})
        host.do("tune", domains=[NAME], limits={"cpu_shares": 2048, "vcpu_quota": 50000})
        agent.wait_for(lambda: agent.value(f"{tunable}cpu_shares", domain=NAME) == 2048)

        def shown(name: str, **labels: str) -> float | None:
            return agent.value(f"{tunable}{name}", domain=NAME, **labels)

        assert shown("cpu_quota_seconds", of="vcpu") == 0.05
        assert shown("cpu_period_seconds", of="vcpu") == 0.1
        assert shown("memory_hard_limit_bytes") == 500000 * 1024
        assert shown("blkio_read_limit_bytes_per_second", device="/dev/sda") == 7
        assert shown("numa_info", mode="interleave", nodeset="0-1") == 1
        assert "hard_limit     : 500000" in virsh(host.uri, "memtune", NAME)
        assert "vcpu_quota     : 50000" in virsh(host.uri, "schedinfo", NAME)
        assert "interleave" in virsh(host.uri, "numatune", NAME)
        described = virsh(host.uri, "dumpxml", NAME)
        for element in (
            "<shares>2048</shares>",
            "<quota>50000</quota>",
            "<hard_limit unit='KiB'>500000</hard_limit>",
            "<read_bytes_sec>7</read_bytes_sec>",
            "<memory mode='interleave' nodeset='0-1'/>",
        ):
            assert element in described
