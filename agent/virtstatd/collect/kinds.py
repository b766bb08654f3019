"""The collectors of the agent: a new one is a file, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from virtstatd.collect.bulk.options import PollOptions
from virtstatd.collect.bulk.poller import poller
from virtstatd.collect.cpu_stats import CpuStatsOptions, cpu_stats
from virtstatd.collect.descriptions.reader import descriptions
from virtstatd.collect.kernel.collector import KernelOptions, kernel
from virtstatd.collect.parts import Parts
from virtstatd.collector import Collector


@dataclass(frozen=True, slots=True)
class CollectorKind:
    """
    One of the agent's own collectors: its table in the configuration, and how it is built.

    `build` is called with the table's options, where there is a table, and the parts. It returns
    None where the collector is switched off or does not apply here.
    """

    table: str
    options: type | None
    build: Callable[..., Collector | None]

    def built(self, options: Any, parts: Parts) -> Collector | None:
        """Return the collector, None where there is none here."""
        return self.build(parts) if self.options is None else self.build(options, parts)


KINDS: Final = (
    CollectorKind("poll", PollOptions, poller),
    CollectorKind("", None, descriptions),
    CollectorKind("cpu_stats", CpuStatsOptions, cpu_stats),
    CollectorKind("local", KernelOptions, kernel),
)
"""In the order in which `virtstatd once` asks them: who runs is known after the first."""

OWN_NAMES: Final = ("bulk", "descriptions", "cpu_stats", "kernel", "own")
"""The names of the agent's collectors, which no other may have."""
