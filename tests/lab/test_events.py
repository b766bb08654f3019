"""Events of real guests, as they are counted and recorded."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.support.broken_disk import BrokenDisk
from lab.support.hypervisor import Lab
from support.agent import Agent, running


KINDS = "libvirt_domain_events_total"
DETAILS = "libvirt_domain_event_details_total"
HOST = "libvirt_events_total"


def counts(agent: Agent, family: str) -> Callable[..., float]:
    """Return a function of labels' values that says what a family shows."""

    def count(*values: str) -> float:
        return sum(
            number
            for (name, labels), number in agent.samples().items()
            if name == family and {*values} <= {value for _, value in labels}
        )

    return count


@pytest.mark.timeout(600)
def test_what_happens_to_guests_is_counted(private_lab: Lab, tmp_path: Path):
    """A reset, a threshold, an I/O error, devices, metadata, memory and a killed QEMU are told."""
    lab, uuid = private_lab, private_lab.live_guest("eventful").uuid
    (again,) = lab.paused_guests(1, prefix="again", on_reboot="restart")
    file = tmp_path / "lines.jsonl"
    broken = BrokenDisk(tmp_path / "nbd")
    with broken, running(tmp_path, lab.uri_readonly, lines=file) as agent:
        kinds, details, host = (counts(agent, each) for each in (KINDS, DETAILS, HOST))
        quiet = {(KINDS, (("domain", "eventful"), ("event", "io_error")))}
        agent.wait_for(lambda: quiet <= agent.samples().keys())
        assert kinds("io_error") == 0
        lab.virsh("domblkthreshold", uuid, "vda", "1")
        lab.virsh("metadata", uuid, "http://x/1", "--key", "k", "--set", "<a/>", "--live")
        lab.virsh("setmem", uuid, "100M", "--live")
        xml = tmp_path / "broken.xml"
        xml.write_text(broken.xml("vdx"))
        lab.virsh("attach-device", uuid, str(xml))
        _, mac = lab.attach_nic("eventful")
        agent.wait_for(lambda: kinds("eventful", "device_added") == 2)
        agent.wait_for(lambda: details("eventful", "block_threshold", "vda") >= 1)
        agent.wait_for(lambda: details("eventful", "metadata_change", "element") == 1)
        agent.wait_for(lambda: kinds("eventful", "balloon_change") >= 1)
        agent.wait_for(lambda: kinds("eventful", "io_error") >= 1)
        agent.wait_for(lambda: details("eventful", "io_error", "other") >= 1)
        infos = counts(agent, "libvirt_domain_block_stats_info")
        agent.wait_for(lambda: infos("eventful", "vdx", "virtio-disk23") == 1)
        assert details("eventful", "io_error", "virtio-disk23") >= 1
        lab.detach_nic("eventful", mac)
        agent.wait_for(lambda: kinds("eventful", "device_removed") == 1)
        lab.virsh("resume", lab.uuid(again))
        agent.wait_for(lambda: details(again, "lifecycle", "resumed_unpaused") == 1)
        lab.virsh("reset", lab.uuid(again))
        agent.wait_for(lambda: kinds(again, "reboot") >= 1)
        os.kill(lab.qemu_pid("guest-1"), signal.SIGKILL)
        agent.wait_for(lambda: host("lifecycle", "stopped_failed") == 1)
        agent.wait_for(lambda: kinds("guest-1") == 0)
        shown = agent.samples()
        last = {
            labels: v for (name, labels), v in shown.items() if name.endswith("timestamp_seconds")
        }
        print({k: v for k, v in shown.items() if "event" in k[0] and v})
        assert last
        assert not agent.events("exception")
        with urllib.request.urlopen(f"{agent.address}/api/v1/events", timeout=60) as answer:
            listed = json.loads(answer.read())["events"]
    del lab.definitions["guest-1"]
    assert {"reboot", "io_error", "block_threshold"} <= {each["event"] for each in listed}
    (end,) = [each for each in listed if each["detail"] == "stopped_failed"]
    assert end["guest"]["name"] == "guest-1"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    records = [each for each in lines if each["group"] == "event"]
    assert len(records) >= len(listed)
    ends = [each for each in records if each["fields"]["info"].get("detail") == "stopped_failed"]
    assert [each["domain"] for each in ends] == ["guest-1"]
