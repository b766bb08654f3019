"""What a real guest's agent reports, and what it costs the others when it hangs."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from lab.support.inside import FILL, RESTART, STOP, answer_at, guest_info, network_of, said
from support.agent import Agent, running


AGENT = """
[guest_agent]
enabled = true
interval_seconds = 1
filesystems_interval_seconds = 2
limit_seconds = 2
"""
FILESYSTEM = "libvirt_domain_guest_filesystem_"
READ = "libvirt_domain_block_stats_read_requests_total"


def writers(lab: Lab) -> list[bool]:
    """Return for each client of libvirtd whether its connection could change guests."""
    rows = lab.run("virt-admin", "client-list", "libvirtd").splitlines()[2:]
    several = [row.split()[0] for row in rows if row.split()]
    infos = [lab.run("virt-admin", "client-info", "libvirtd", each) for each in several]
    return [re.search(r"readonly\s*: no", info) is not None for info in infos]


def polled(agent: Agent, tier: str, times: float) -> bool:
    """Return whether a tier has been polled so often."""
    return (agent.value("virtstatd_ticks_total", tier=tier) or 0) >= times


@pytest.fixture
def net(private_lab: Lab) -> str:
    """Start a guest with a file system, and return the network that it is in."""
    private_lab.live_guest()
    private_lab.inside_guest("live", FILL)
    return network_of(private_lab, "live")


def test_what_the_guest_says_is_virshs_and_a_hung_agent_is_alone(
    private_lab: Lab, net: str, tmp_path: Path
):
    """
    Every number is virsh's; an agent stopped in its guest delays no other series of any guest.

    The poll goes on, disk counters of the same guest move, one call hangs and no second one is
    made; when the agent goes on, its numbers are there again.
    """
    lab = private_lab
    with running(tmp_path, lab.uri_readonly, more=AGENT) as agent:
        used = f"{FILESYSTEM}used_bytes"
        of = {"domain": "live", "mountpoint": "/data", "device": "vdb"}
        of |= {"fstype": "ext4", "target_device": "vdb"}
        agent.wait_for(lambda: (agent.value(used, **of) or 0) > 3_000_000)
        shown, virsh = said(agent, "live"), guest_info(lab, "live")
        assert agent.value(f"{FILESYSTEM}size_bytes", **of) == int(virsh["fs.0.total-bytes"])
        assert agent.value(used, **of) == int(virsh["fs.0.used-bytes"])
        assert shown["agent_connected"] == shown["agent_responsive"] == {"": 1}
        assert shown["users"] == {"": int(virsh["user.count"])}
        assert shown["timezone_info"] == {virsh["timezone.name"]: 1}
        assert shown["hostname_info"] == {virsh["hostname"]: 1}
        (system,) = shown["os_info"]
        for key in ("os.machine", "os.kernel-release", "os.kernel-version"):
            assert virsh[key] in system
        assert len(shown["disk_info"]) == int(virsh["disk.count"])
        assert f"{net}.2 eth0 ipv4 " in " ".join(shown["interface_info"])
        assert shown["vcpus"] == shown["vcpus_online"] == {"": 1}
        assert len(agent.events("guest_agent.opened")) == 1
        assert sum(writers(lab)) == 1

        def value(name: str, **labels: str) -> float:
            return agent.value(name, **labels) or 0.0

        lab.inside_guest("live", STOP.format(there=f"{net}.9"))
        agent.wait_for(lambda: value("virtstatd_guest_agent_hanging_calls") == 1)
        reads = value(READ, domain="live", target_device="vda")
        polls = value("virtstatd_ticks_total", tier="monitor")
        agent.wait_for(partial(polled, agent, "monitor", polls + 4))
        assert value(READ, domain="live", target_device="vda") > reads
        assert value("virtstatd_calls_total", tier="monitor", outcome="overdue") == 0
        assert value("virtstatd_calls_total", tier="pulse", outcome="overdue") == 0
        assert value("virtstatd_missing_domains", tier="monitor") == 0
        assert value("virtstatd_guest_agent_hanging_calls") == 1
        assert said(agent, "live")["agent_responsive"] == {"": 0}
        answer_at(lab, "live", f"{net}.9")
        agent.wait_for(lambda: agent.events("guest_agent.answers"))
        agent.wait_for(lambda: agent.value(used, **of))
        assert value("virtstatd_guest_agent_hanging_calls") == 0
        lab.inside_guest("live", RESTART.format(there=f"{net}.8"))
        agent.wait_for(lambda: said(agent, "live").get("agent_connected") == {"": 0})
        agent.wait_for(lambda: said(agent, "live").get("agent_responsive") == {"": 0})
        assert agent.value(used, **of) is None
        answer_at(lab, "live", f"{net}.8")
        agent.wait_for(lambda: agent.value(used, **of))


def test_cpu_times_and_missing_periods(private_lab: Lab, tmp_path: Path):
    """
    CPU times are those that the guest counts; a missing balloon period is found, and set if wanted.

    Without the switch nothing is changed. With it the guest's memory is reported, until the next
    start of the guest: its persistent definition, if there were one, would stay as it is.
    """
    lab = private_lab
    definition = lab.live_guest()
    lab.virsh("dommemstat", definition.uuid, "--period", "0", "--live")
    of = {"domain": "live"}
    period = "libvirt_domain_memory_stats_period_seconds"
    (tmp_path / "asks").mkdir()
    cpu = f"{AGENT}cpu = true\n"
    with running(tmp_path / "asks", lab.uri_readonly, more=cpu) as agent:
        times = "libvirt_domain_guest_cpu_seconds_total"
        agent.wait_for(lambda: agent.value(times, **of, cpu="0", mode="system"))
        before = agent.value(times, **of, cpu="0", mode="system") or 0
        lab.inside_guest("live", "while :; do :; done")
        agent.wait_for(
            lambda: (agent.value(times, **of, cpu="0", mode="system") or 0) > before + 0.05
        )
        assert agent.value(period, **of) == 0
        assert not agent.events("guest_agent.balloon_set")
    (tmp_path / "sets").mkdir()
    sets = "[guest_agent]\nset_balloon_period = true\nballoon_period_seconds = 3\n"
    with running(tmp_path / "sets", lab.uri_readonly, more=sets) as agent:
        agent.wait_for(lambda: agent.value(period, **of) == 3)
        (said,) = agent.events("guest_agent.balloon_set")
        assert (said["uuid"], said["seconds"]) == (definition.uuid, 3)
        assert agent.value("virtstatd_guest_agent_calls_total", outcome="ok") == 0
        assert "<stats period='3'/>" in lab.virsh("dumpxml", definition.uuid)


def test_without_it_nobody_is_asked(private_lab: Lab, tmp_path: Path):
    """Off as it is by default there is no read-write connection; nor is one without any agent."""
    lab = private_lab
    for name, more in (("off", ""), ("on", AGENT)):
        (tmp_path / name).mkdir()
        with running(tmp_path / name, lab.uri_readonly, more=more) as agent:
            agent.wait_for(lambda: (agent.value("virtstatd_xml_reads_total") or 0) >= 4)
            agent.wait_for(partial(polled, agent, "pulse", 5))
            clients = writers(lab)
            assert clients
            assert not any(clients)
            assert not agent.events("guest_agent.opened")


def test_libvirt_ends_a_query_of_a_hung_agent_if_the_configuration_wants_it(
    private_lab: Lab, net: str, tmp_path: Path
):
    """Then no call hangs, so that one hung agent may be the only one allowed and stops nobody."""
    lab = private_lab
    limited = f"{AGENT}hanging_calls = 1\nresponse_timeout_seconds = 1\n"
    with running(tmp_path, lab.uri_readonly, more=limited) as agent:
        agent.wait_for(lambda: said(agent, "live").get("agent_responsive") == {"": 1})
        assert [each["seconds"] for each in agent.events("guest_agent.timeout_set")] == [1]
        lab.inside_guest("live", STOP.format(there=f"{net}.9"))
        agent.wait_for(lambda: agent.value("virtstatd_guest_agent_calls_total", outcome="silent"))
        assert said(agent, "live")["agent_responsive"] == {"": 0}
        assert not agent.value("virtstatd_guest_agent_calls_total", outcome="overdue")
        assert not agent.events("guest_agent.crowded")
        answer_at(lab, "live", f"{net}.9")
        agent.wait_for(lambda: said(agent, "live")["agent_responsive"] == {"": 1})
