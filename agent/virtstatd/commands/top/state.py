"""What `top` shows: the documents it has, and what the person at the terminal looks at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal


Known = Mapping[str, Any]
Screen = Literal["hurts", "guests", "guest", "agent", "help"]

TRAIL: Final = 240
"""Values of a device that are kept for its line: four minutes of one a second."""


@dataclass(frozen=True, slots=True)
class TopView:
    """
    What is looked at: never changed, each key makes a new one.

    `cursor` is a place in all guests that match, or in the findings. `first` is the first line that
    is shown. `typed` is the filter while it is typed, None when no one types. `back` is the screen
    that a guest was opened from.
    """

    screen: Screen = "hurts"
    sort: str = ""
    filter: str = ""
    cursor: int = 0
    first: int = 0
    uuid: str = ""
    typed: str | None = None
    paused: bool = False
    back: Screen = "hurts"
    ascii_only: bool = False


Trails = dict[tuple[str, str, str], deque[float | None]]
"""The last values of a guest's devices, by kind, device and column."""


@dataclass(frozen=True, slots=True)
class Shown:
    """
    What is known: documents as the agent's API has them, empty where there are none yet.

    `first` is the place of the first guest of the window. `where` names the agent, `fault` why
    nothing newer came. `kinds` are the kinds of findings by name, with their thresholds.
    """

    where: str = ""
    host: Known = field(default_factory=dict)
    findings: Known = field(default_factory=dict)
    guests: Known = field(default_factory=dict)
    guest: Known = field(default_factory=dict)
    agent: Known = field(default_factory=dict)
    first: int = 0
    fault: str = ""
    trails: Trails = field(default_factory=dict)
    kinds: Known = field(default_factory=dict)


def remembered(trails: Trails, guest: Known) -> Trails:
    """Return the lines of a guest's devices with its newest values added."""
    fresh: Trails = {}
    for key, value in _measured(guest):
        fresh[key] = deque(trails.get(key, ()), TRAIL)
        fresh[key].append(value)
    return fresh


def _measured(guest: Known) -> Iterator[tuple[tuple[str, str, str], float | None]]:
    for kind, name in (("vcpus", "vcpu"), ("disks", "device"), ("nics", "device")):
        for each in guest.get(kind, ()):
            for column, value in each.items():
                if column.endswith(("_ratio", "_second", "_iops", "_latency_seconds")):
                    yield (kind, str(each.get(name)), column), value
