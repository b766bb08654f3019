"""The channel of the guest's agent, and the balloon's period."""

from __future__ import annotations

import pytest

from virtstatd.collect.descriptions.guest_side import CONNECTED_KEY, PERIOD_KEY, guest_side
from virtstatd.collect.descriptions.xml import parsed_xml


def found(devices: str) -> dict[str, int]:
    """Return what is found in these devices, by key."""
    root = parsed_xml(f"<domain><devices>{devices}</devices></domain>")
    return {key: value for (key, _), value in guest_side(root)}


def channel(name: str, state: str) -> str:
    """Return a channel."""
    said = f" state='{state}'" if state else ""
    return f"<channel type='unix'><target type='virtio' name='{name}'{said}/></channel>"


@pytest.mark.parametrize(
    ("devices", "connected"),
    [
        (channel("org.qemu.guest_agent.0", "connected"), 1),
        (channel("org.qemu.guest_agent.0", "disconnected"), 0),
        (channel("com.redhat.spice.0", "connected"), None),
        (channel("org.qemu.guest_agent.0", ""), None),
        (
            channel("com.redhat.spice.0", "disconnected")
            + channel("org.qemu.guest_agent.0", "connected"),
            1,
        ),
        ("", None),
    ],
    ids=["connected", "disconnected", "another", "unknown", "both", "none"],
)
def test_the_agents_channel(devices: str, connected: int | None):
    """Whether an agent holds it open is known where libvirt says so, of no other channel."""
    assert found(devices).get(CONNECTED_KEY) == connected


@pytest.mark.parametrize(
    ("devices", "period"),
    [
        ("<memballoon model='virtio'><stats period='10'/></memballoon>", 10),
        ("<memballoon model='virtio'/>", 0),
        ("<memballoon model='virtio'><stats period='never'/></memballoon>", None),
        ("<memballoon model='none'/>", None),
        ("", None),
    ],
)
def test_the_balloons_period(devices: str, period: int | None):
    """0 without a period, absent without a balloon."""
    assert found(devices).get(PERIOD_KEY) == period
