"""What a domain's XML says of its guest agent's channel, and of what its balloon driver reports."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Final

from virtstatd.model import Labels


AGENT: Final = "org.qemu.guest_agent.0"
CONNECTED_KEY: Final = "agent_connected"
PERIOD_KEY: Final = "balloon_period"

_PERIOD: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


def guest_side(root: ET.Element) -> Iterator[tuple[tuple[str, Labels], int]]:
    """Yield whether the agent holds its channel open, and the balloon's period, 0 if none is."""
    for target in root.iterfind("devices/channel/target"):
        if target.get("name") == AGENT and (state := target.get("state")):
            yield (CONNECTED_KEY, ()), int(state == "connected")
            break
    balloon = root.find("devices/memballoon")
    if balloon is not None and balloon.get("model", "none") != "none":
        stats = balloon.find("stats")
        period = "0" if stats is None else stats.get("period", "0")
        if _PERIOD.fullmatch(period):
            yield (PERIOD_KEY, ()), int(period)
