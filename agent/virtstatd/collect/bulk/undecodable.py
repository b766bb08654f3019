"""Whose records have values that libvirt cannot mean: named once, and once when all are sound."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.bulk.answer import POLLED


class Undecodable:
    """Count records with values that cannot be decoded, and name their guests in the log."""

    def __init__(self, log: FilteringBoundLogger, name: Callable[[str], str]) -> None:
        self.records = 0
        """How many there were."""
        self._log = log
        self._name = name
        self._bits = {group.name: group.bit for group in POLLED.values()}
        self._faulty: dict[str, set[str]] = {}

    def keep(self, uuids: Iterable[str]) -> None:
        """Forget all others: these are the domains that run."""
        for uuid in self._faulty.keys() - set(uuids):
            del self._faulty[uuid]

    def judge(self, faults: Mapping[str, str], whole: Collection[str], bits: int) -> None:
        """
        Log the transitions by an answer for some groups: its faults, and whose records were whole.

        A fault begins with its key. An answer without a key's group says nothing of it.
        """
        self.records += len(faults)
        for uuid, fault in faults.items():
            if uuid not in self._faulty:
                self._log.warning(
                    "domain.undecodable", domain=self._name(uuid), uuid=uuid, reason=fault
                )
            self._faulty.setdefault(uuid, set()).add(_group(fault))
        for uuid in self._faulty.keys() & set(whole):
            groups, still = self._faulty[uuid], {_group(faults.get(uuid, ""))}
            groups -= {each for each in groups if self._bits.get(each, bits) & bits} - still
            if not groups:
                del self._faulty[uuid]
                self._log.info("domain.decodable", domain=self._name(uuid), uuid=uuid)


def _group(fault: str) -> str:
    """Return the group of the key that a fault begins with."""
    return fault.partition(":")[0].partition(".")[0]
