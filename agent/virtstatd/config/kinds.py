"""The built-in collectors: a new one is a file, and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from virtstatd.collect.parts import CollectorKind


MODULES: Final = (
    "bulk.poller",
    "descriptions.reader",
    "cpu_stats",
    "defined.collector",
    "disk_errors",
    "objects.pools",
    "objects.networks",
    "events.collector",
    "jobs.collector",
    "kernel.collector",
    "guest_agent.collector",
    "storage.collector",
)
"""In the order of `virtstatd once`: the running domains are known after the first."""

KINDS: Final[tuple[CollectorKind, ...]] = tuple(
    import_module(f"virtstatd.collect.{module}").KIND for module in MODULES
)

OWN_NAMES: Final = (*(kind.name for kind in KINDS), "own")
"""The names of the built-in collectors, which no other collector may have."""
