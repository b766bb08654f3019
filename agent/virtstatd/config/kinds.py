"""The collectors of the agent: a new one is a file, and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from virtstatd.collect.parts import CollectorKind


MODULES: Final = (
    "bulk.poller",
    "descriptions.reader",
    "cpu_stats",
    "kernel.collector",
)
"""In the order in which `virtstatd once` asks them: who runs is known after the first."""

KINDS: Final[tuple[CollectorKind, ...]] = tuple(
    import_module(f"virtstatd.collect.{module}").KIND for module in MODULES
)

OWN_NAMES: Final = (*(kind.name for kind in KINDS), "own")
"""The names of the agent's collectors, which no other may have."""
