"""Libvirt's answers about jobs as readings; what the catalog does not know is passed on too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from virtstatd.catalog import Catalog
from virtstatd.catalog.recipe import number
from virtstatd.collect.events.meanings import harmless
from virtstatd.collect.jobs.words import block_operation, operation_of
from virtstatd.model import Domain, Labels, Number, Reading, Shape


GROUP: Final = "job"
SHAPES: Final = 256
UNKNOWN_MAX: Final = 64
"""How many keys that the catalog does not know are passed on of a job."""

BLOCK: Final = ("type", "cur", "end", "bandwidth")

Block = Mapping[str, int]
JobItem = tuple[str, Labels]


class JobFields:
    """Make readings; the shapes of the same keys are shared."""

    def __init__(self, catalog: Catalog) -> None:
        self._shape = lru_cache(SHAPES)(catalog.shape)
        known = {line.key for line in catalog.fields if line.group == GROUP}
        self._order = {key: at for at, key in enumerate(known)}

    def readings(
        self, domain: Domain, job: Mapping[str, Any], blocks: Mapping[str, Block], stalled: int
    ) -> Iterator[Reading]:
        """Yield what runs of a domain, and what is unknown of it."""
        found: dict[JobItem, Number] = {}
        unknown: dict[JobItem, Number] = {}
        for key, value in sorted(job.items()):
            labels: Labels = (("operation", operation_of(job)),) if key == "operation" else ()
            if isinstance(value, str) or key not in self._order or key.startswith("block_"):
                if len(unknown) < UNKNOWN_MAX:
                    unknown |= _unknown(key, value)
            else:
                found |= _numbers(key, labels, value)
        if "memory_iteration" in job:
            found["stalled", ()] = stalled
        for name in BLOCK:
            for disk, block in sorted(blocks.items()):
                of: Labels = (("target_device", disk),)
                if name == "type":
                    of = (*of, ("operation", block_operation(block.get("type"))))
                found |= _numbers(f"block_{name}", of, block.get(name))
        for group, values in (GROUP, found), ("unknown", unknown):
            if values:
                yield Reading(domain, self._shape(group, tuple(values)), tuple(values.values()))

    def shape(self, group: str, items: Iterable[JobItem]) -> Shape:
        """Return the shape of these series."""
        return self._shape(group, tuple(items))


def _numbers(key: str, labels: Labels, value: object) -> dict[JobItem, Number]:
    """Return a number where it is one that libvirt can mean."""
    try:
        return {(key, labels): number(key, value, signed=False)}
    except ValueError:
        return {}


def _unknown(key: str, value: object) -> dict[JobItem, Number]:
    name = harmless(key)
    labels: Labels = (("group", GROUP), ("key", name))
    if isinstance(value, str):
        return {("text", (*labels, ("value", harmless(value)))): 1} if value else {}
    return _numbers("stat", labels, value)
