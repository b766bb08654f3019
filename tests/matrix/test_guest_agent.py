"""What a guest's agent reports, on every generation of libvirt and its own client library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.support.inside import FILL, STOP, answer_at, guest_info, network_of, said
from matrix.support.generation import Generation


AGENT = """
[guest_agent]
enabled = true
interval_seconds = 1
filesystems_interval_seconds = 2
limit_seconds = 2
"""
REFUSED = {"load": (11, 2, 0), "drivers": (12, 7, 0)}
"""What this guest's agent does not have, and the libvirt that first asks for it."""


@pytest.fixture
def filled(generation: Generation) -> Iterator[str]:
    """Start a guest with a file system."""
    system = generation.definitions["live"].system
    generation.live_guest("filled", system=system, timed=False)
    try:
        generation.inside_guest("filled", FILL)
        yield "filled"
    finally:
        generation.destroy("filled")


def test_guests_say_what_virsh_shows(generation: Generation, filled: str):
    """
    File system, system and addresses are virsh's, and a question that is refused costs no other.

    An agent that is stopped hangs one call, and is asked again when it goes on.
    """
    lab = generation
    with lab.agent(inside=True, more=AGENT) as (agent, _):
        agent.wait_for(lambda: said(agent, filled).get("filesystem_used_bytes"))
        agent.wait_for(lambda: min(said(agent, filled)["filesystem_used_bytes"].values()) > 3e6)
        shown, virsh = said(agent, filled), guest_info(lab, filled)
        assert shown["filesystem_size_bytes"] == {
            "vdb ext4 /data vdb": int(virsh["fs.0.total-bytes"])
        }
        (system,) = shown["os_info"]
        assert virsh["os.kernel-release"] in system
        net = network_of(lab, filled)
        assert f"{net}.2 eth0" in " ".join(shown["interface_info"])
        assert shown["agent_responsive"] == {"": 1}
        refused = [each["question"] for each in agent.events("guest_agent.refused")]
        assert refused == [name for name, since in REFUSED.items() if lab.version >= since]
        lab.inside_guest(filled, STOP.format(there=f"{net}.9"))
        agent.wait_for(lambda: agent.value("virtstatd_guest_agent_hanging_calls"))
        agent.wait_for(lambda: said(agent, filled)["agent_responsive"] == {"": 0})
        assert said(agent, "live")["agent_responsive"] == {"": 1}, "it waits for no other guest"
        answer_at(lab, filled, f"{net}.9")
        agent.wait_for(lambda: said(agent, filled)["agent_responsive"] == {"": 1})
        assert agent.stop() == 0
