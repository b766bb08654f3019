"""A real libvirtd whose guests are monitored in part."""

from __future__ import annotations

from pathlib import Path

from lab.support.hypervisor import Lab
from support.agent import Agent, running


URI = "https://example.org/vm/1"
OPTIONS = f"""
[metadata]
labels = [{{ label = "tenant", namespace = "{URI}", path = "owner@name" }}]
[filter]
exclude = [{{ labels = {{ tenant = "secret" }} }}, {{ regex = "guest-[12]" }}]
"""


def guests(agent: Agent) -> set[str]:
    """Return the guests on the page."""
    return {dict(labels)["domain"] for _, labels in agent.samples() if "domain" in dict(labels)}


def test_a_stopped_guest_that_is_left_out_holds_nobody_up(private_lab: Lab, tmp_path: Path):
    """Left out by name, a stopped QEMU is never asked; by metadata, a guest leaves and returns."""
    lab = private_lab
    everybody = set(lab.names())
    wanted = everybody - {"guest-1", "guest-2"}
    assert {"guest-0", "guest-1", "guest-2"} <= everybody
    uuid = lab.uuid("guest-0")

    def write(tenant: str) -> None:
        xml = f"<vm><owner name='{tenant}'/></vm>"
        lab.virsh("metadata", uuid, URI, "--live", "--key", "v", "--set", xml)

    with (
        lab.stuck("guest-1"),
        running(tmp_path, lab.uri_readonly, local=True, more=OPTIONS) as agent,
    ):
        agent.wait_for(lambda: guests(agent) == wanted)
        agent.wait_for(lambda: agent.value("virtstatd_filtered_domains") == 2)
        write("secret")
        agent.wait_for(lambda: guests(agent) == wanted - {"guest-0"})
        agent.wait_for(lambda: agent.value("virtstatd_filtered_domains") == 3)
        write("open")
        agent.wait_for(lambda: guests(agent) == wanted)
        assert not agent.events("domain.unresponsive")
        assert all("guest-1" not in str(line["domains"]) for line in agent.events("poll.failing"))
