"""What tests ask the page of an agent in front of real guests."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import waits
from support.agent import Agent


def shown(agent: Agent, family: str) -> set[str]:
    """Return the domains of which a family is shown."""
    return {dict(labels)["domain"] for name, labels in agent.samples() if name == family}


def domains(agent: Agent) -> set[str]:
    """Return every domain of which the page shows anything."""
    labels = (dict(labels) for _, labels in agent.samples())
    return {each["domain"] for each in labels if "domain" in each}


def polls(agent: Agent, tier: str = "monitor", since: float = 0) -> float:
    """Return how many polls of a tier have begun."""
    samples, labels = agent.samples(), (("tier", tier),)
    ticks = samples.get(("virtstatd_ticks_total", labels), 0)
    return ticks - samples.get(("virtstatd_ticks_skipped_total", labels), 0) - since


def settled(agent: Agent, what: Callable[[], object], *, within: int = 3) -> None:
    """Wait until something is so; not more than a few polls may pass before."""
    waits.settled(agent, lambda: polls(agent), what, within=within)


class Watch:
    """Looks at the page all the time, and remembers who was missing when."""

    def __init__(
        self, agent: Agent, family: str, wanted: set[str], *, pause_seconds: float = 0.2
    ) -> None:
        self._pause_seconds = pause_seconds
        self.missing: list[tuple[float, set[str]]] = []
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._look, args=(agent, family, wanted), daemon=True
        )

    def _look(self, agent: Agent, family: str, wanted: set[str]) -> None:
        while not self._stop.wait(self._pause_seconds):
            if gone := wanted - shown(agent, family):
                self.missing.append((time.monotonic(), gone))
            self.looks += 1

    def __enter__(self) -> Watch:  # noqa: PYI034 - never subclassed
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(300)  # as long as it may wait for the page
        assert not self._thread.is_alive()


def records(lines: Path, group: str, source: str = "bulk") -> list[dict[str, Any]]:
    """Return what a JSON lines sink wrote of a group of domains, a line under way left out."""
    each = map(json.loads, lines.read_text().rpartition("\n")[0].splitlines())
    return [e for e in each if (e["source"], e["group"]) == (source, group) and "domain" in e]


def newest(lines: Path) -> str:
    """Return when the newest numbers were taken."""
    return max(str(each["time"]) for each in records(lines, "state"))


def times(lines: Path, group: str, field: str = "", since: str = "") -> Counter[str]:
    """Count the times at which each domain had a group, with a field where one is named."""
    taken = {
        (each["domain"], each["time"])
        for each in records(lines, group)
        if str(each["time"]) > since and (not field or field in each["fields"])
    }
    return Counter(str(domain) for domain, _ in taken)


def polls_kept(agent: Agent, begun: float) -> bool:
    """Tell whether there was an answer for every poll since `begun`."""
    # a call that several tiers share is counted once, for the last of them
    samples = agent.samples()
    ok = sum(
        samples["virtstatd_calls_total", (("outcome", "ok"), ("tier", tier))]
        for tier in ("monitor", "extra")
    )
    return ok >= polls(agent, since=begun)
