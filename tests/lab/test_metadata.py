"""What is written into the metadata of a real guest becomes its labels, by libvirt's event."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from lab.support.hypervisor import Lab
from support.agent import Agent, running


URI = "https://example.org/vm/1"
OPTIONS = f"""
[metadata]
labels = [{{ label = "tenant", namespace = "{URI}", path = "owner@name" }}]
"""
LABELLED = """
[[sink]]
type = "prometheus"
name = "labelled"
listen_address = "127.0.0.1:0"
path = "/labelled"
labels = ["tenant"]
"""


def labels_of(agent: Agent, guest: str) -> dict[str, str]:
    """Return the labels of a guest's metadata."""
    for name, labels in agent.samples():
        if name == "libvirt_domain_metadata_info" and dict(labels)["domain"] == guest:
            return dict(labels)
    return {}


def states(agent: Agent) -> list[str]:
    """Return the lines of guest-0's state on the page with copied labels."""
    with urllib.request.urlopen(f"{agent.address}/labelled", timeout=100) as answer:
        lines = str(answer.read().decode()).splitlines()
    return [
        line
        for line in lines
        if line.startswith("libvirt_domain_info_state{") and 'domain="guest-0"' in line
    ]


def test_metadata_that_is_edited_shows_without_a_restart(private_lab: Lab, tmp_path: Path):
    """Set, changed and removed by virsh: each shows by its event, also on all other series."""
    lab = private_lab
    uuid = lab.uuid("guest-0")

    def write(tenant: str) -> None:
        xml = f"<vm><owner name='{tenant}'/></vm>"
        lab.virsh("metadata", uuid, URI, "--live", "--key", "v", "--set", xml)

    with running(tmp_path, lab.uri_readonly, more=OPTIONS + LABELLED) as agent:
        agent.wait_for(lambda: agent.value("libvirt_domains") == len(lab.names()))
        agent.wait_for(lambda: states(agent))
        assert "tenant" not in states(agent)[0]
        read = agent.value("virtstatd_xml_reads_total")
        for tenant in "red", "blue":
            write(tenant)
            agent.wait_for(lambda: labels_of(agent, "guest-0").get("tenant") == tenant)  # noqa: B023
            agent.wait_for(lambda: f'tenant="{tenant}"' in states(agent)[0])  # noqa: B023
            assert len(states(agent)) == 1, "the old labels are not there beside the new ones"
        lab.virsh("metadata", uuid, URI, "--live", "--remove")
        agent.wait_for(lambda: "tenant" not in labels_of(agent, "guest-0"))
        agent.wait_for(lambda: "tenant" not in states(agent)[0])
        events = agent.value("virtstatd_events_total", event="metadata_change")
        reads = agent.value("virtstatd_xml_reads_total")
        with urllib.request.urlopen(f"{agent.address}/api/v1/guests/{uuid}", timeout=100) as answer:
            assert "tenant" not in json.load(answer)["description"]
    assert events == 3
    assert read is not None
    assert reads is not None
    assert reads >= read + 3
