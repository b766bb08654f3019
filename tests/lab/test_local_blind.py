"""What the lane cannot see is logged once, with what to do about it; the rest is reported."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from lab.support.hypervisor import Lab
from support.agent import Agent, running


# What a host may hide, each made in a mount namespace of the agent's own, and what is missed then.
HIDDEN = {
    "nothing": ("true", set[str]()),
    "processes": ("mount -t proc -o hidepid=2 proc /proc", {"processes"}),
    "host": (
        "mount -t proc -o subset=pid proc /proc",
        {"host CPUs", "host memory", "host load", "host pressure"},
    ),
    "pressure": ("mount -t tmpfs tmpfs /proc/pressure", {"host pressure"}),
    "cgroups": ("mount -t tmpfs tmpfs /sys/fs/cgroup", {"hidden cgroups"}),
    "pid files": ("mount -t tmpfs tmpfs {lab}/run/qemu", {"pid files"}),
}
# An agent of a user that is neither QEMU's nor root; it may read its own program in root's home.
BECOME_NOBODY = (
    "exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all,+dac_read_search"
    ' --ambient-caps +dac_read_search --bounding-set -all,+dac_read_search -- "$@"'
)
MACHINES_OWN = {"host NUMA nodes", "host huge pages", "memory", "io", "cpu pressure"}
LOOKS = 13
GUESTS = 4
OVERHEAD = "libvirt_domain_overhead_seconds_total"
# An agent that is the first process of a PID namespace of its own, and who hands it its end on.
FIRST = (
    """sh -c 'mount -t proc proc /proc && exec "$@"' sh "$@" &"""
    " trap 'kill $!' TERM; wait $!; trap - TERM; wait $!"
)
PRESSURE = Path("/proc/pressure/cpu").exists()
if not PRESSURE:  # a kernel that was built or booted without it
    del HIDDEN["pressure"]
    MACHINES_OWN.add("host pressure")
    HIDDEN["host"][1].remove("host pressure")


def inside(hide: str, lab: Lab) -> tuple[str, ...]:
    """Return a command that hides something from the one behind it, and makes it nobody's."""
    script = f"{hide.format(lab=lab.directory)} && {BECOME_NOBODY}"
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")


def missed(agent: Agent) -> dict[str, dict[str, object]]:
    """Return what the agent has said that it cannot see; fails where something is said twice."""
    lines = agent.events("local.blind")
    found = {str(line["what"]): line for line in lines}
    assert len(found) == len(lines), "said once"
    return {what: line for what, line in found.items() if what not in MACHINES_OWN}


def described(agent: Agent) -> bool:
    """Tell whether the agent has read what the guests are."""
    return (agent.value("virtstatd_xml_reads_total") or 0) >= GUESTS


def later(agent: Agent, looks: int) -> bool:
    """Tell whether the agent has looked so often."""
    return (agent.value("virtstatd_local_ticks_total") or 0) >= looks


def test_what_is_hidden_is_said_once_and_the_rest_is_given(private_lab: Lab):
    """Hidden processes, cgroups, pressure, parts of /proc; QEMU is always another user's."""
    tap = private_lab.taps("guest-0")[0]
    with ExitStack() as stack:
        agents = {}
        for name, (hide, _) in HIDDEN.items():
            folder = private_lab.directory / f"agent, {name}"  # which everybody may enter
            folder.mkdir()
            agents[name] = stack.enter_context(
                running(
                    folder,
                    private_lab.uri_readonly,
                    local=True,
                    look=0.5,
                    inside=inside(hide, private_lab),
                )
            )
        for agent in agents.values():
            agent.wait_for(partial(described, agent))
            agent.wait_for(partial(later, agent, 2))
        private_lab.run("ip", "link", "set", tap, "down")
        private_lab.run("ip", "link", "set", tap, "name", "renamed0")
        for name, (_, hidden) in HIDDEN.items():
            agent = agents[name]
            seen = name not in ("processes", "pid files")
            wanted = hidden | ({"renamed interfaces"} if seen else set())
            agent.wait_for(partial(lambda a, w: missed(a).keys() >= w, agent, wanted))
            agent.wait_for(partial(later, agent, LOOKS))
            said, samples, page = missed(agent), agent.samples(), agent.page()
            assert said.keys() == wanted, name
            assert all(line["fix"] and line["reason"] for line in said.values())
            # a guest's run time comes from libvirt where the lane does not see it
            times = [key for key in samples if key[0] == "libvirt_domain_vcpu_time_seconds_total"]
            assert len(times) == 4 * 4, name
            assert samples["virtstatd_local_domains", ()] == (GUESTS if seen else 0), name
            assert ("libvirt_domain_steal_ratio_bucket" in page) == seen, name
            assert ("libvirt_domain_overhead_seconds_total" in page) == (
                seen and name != "cgroups"
            ), name
            assert ("libvirt_node_cpu_seconds_total" in page) == (name != "host"), name
            assert ("libvirt_node_pressure_some_seconds_total" in page) == (
                PRESSURE and name not in ("host", "pressure")
            ), name


def test_in_a_container_the_namespace_is_named(private_lab: Lab):
    """Cgroups are found where a mount shows them; else, and for processes, it is said what bars."""
    with Lab() as other, ExitStack() as stack:
        enter = ("nsenter", "--target", other.inside()[2], "--cgroup")
        kinds = {
            "cgroup": (*enter, "--"),
            "cgroup and mounts": (*enter, "--mount", "--"),
            "pid": (
                *("unshare", "--mount", "--pid", "--propagation", "private"),
                *("sh", "-c", FIRST, "sh"),
            ),
        }
        agents = {}
        for name, inside_it in kinds.items():
            folder = private_lab.directory / f"agent, {name}"
            folder.mkdir()
            agents[name] = stack.enter_context(
                running(folder, private_lab.uri_readonly, local=True, look=0.5, inside=inside_it)
            )
        said = {}
        for name, agent in agents.items():
            agent.wait_for(partial(described, agent))
            agent.wait_for(partial(later, agent, LOOKS))
            said[name] = missed(agent)
        pages = {name: agent.page() for name, agent in agents.items()}
    assert said["cgroup"] == {}
    assert {name: OVERHEAD in page for name, page in pages.items()} == {
        "cgroup": True,
        "cgroup and mounts": False,
        "pid": False,
    }
    for name, what, space, option in (
        ("cgroup and mounts", "hidden cgroups", "cgroup", "--cgroupns=host"),
        ("pid", "processes", "PID", "--pid=host"),
    ):
        assert said[name].keys() == {what}
        assert f"in a {space} namespace of its own" in str(said[name][what]["reason"])
        assert option in str(said[name][what]["fix"])
