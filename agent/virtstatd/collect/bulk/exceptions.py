"""
Which guests are asked by themselves, and for which groups: what they are refused costs them alone.

With libvirt 9 one guest's error fails the call for all. Who it was is found by halving, and is then
remembered: for a while that guest is asked by itself, without the groups that it is refused, and
now and then for all of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.bulk.answer import POLLED


RETRY_SECONDS: Final = (300.0, 3600.0)
"""First and longest pause before everything is asked again of a guest, or a group of all guests."""

ALL_REFUSED: Final = 3
"""So many guests that are refused a group, and none that is not: the driver does not have it."""


@dataclass(slots=True)
class _Refusal:
    """What is refused, as libvirt's flags, and when it is asked for again."""

    bits: int
    reason: str
    retry_at: float
    pause: float


class Exceptions:
    """Remember what libvirt refuses, of a guest or of all, and log when that begins and ends."""

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._guests: dict[str, _Refusal] = {}
        self._groups: dict[int, _Refusal] = {}

    @property
    def guests(self) -> int:
        """How many guests are asked by themselves."""
        return len(self._guests)

    def groups(self) -> list[str]:
        """Return the groups that are refused of every guest."""
        return [name for name, group in POLLED.items() if group.bit in self._groups]

    def keep(self, uuids: Iterable[str]) -> None:
        """Forget all guests but these, which run."""
        running = set(uuids)
        for uuid in self._guests.keys() - running:
            del self._guests[uuid]

    def reset(self) -> None:
        """Forget everything: another libvirt may have come."""
        self._guests.clear()
        self._groups.clear()

    def asked(self, bits: int) -> int:
        """Return the groups among `bits` that are asked of guests at all now."""
        now = self._clock()
        for bit, refusal in self._groups.items():
            if bits & bit and now < refusal.retry_at:
                bits &= ~bit
        return bits

    def alone(self, uuid: str, bits: int) -> int | None:
        """Return the groups to ask a guest for by itself, None where it is one of many."""
        refusal = self._guests.get(uuid)
        if refusal is None or not refusal.bits & bits:
            return None
        return bits if self._clock() >= refusal.retry_at else bits & ~refusal.bits

    def refused(self, uuid: str, name: str, bits: int, reason: str) -> None:
        """Take note that a guest alone was refused these groups."""
        known = self._guests.get(uuid)
        if known is None:
            self._log.warning(
                "domain.refused", domain=name, uuid=uuid, groups=_names(bits), reason=reason
            )
            known = self._guests[uuid] = _Refusal(0, reason, 0.0, RETRY_SECONDS[0] / 2)
        fresh = bool(bits & ~known.bits)
        known.bits |= bits
        if fresh or self._clock() >= known.retry_at:
            known.pause = min(2 * known.pause, RETRY_SECONDS[1])
            known.retry_at = self._clock() + known.pause

    def answered(self, uuid: str, name: str, bits: int) -> None:
        """Take note that a guest alone was answered for these groups."""
        known = self._guests.get(uuid)
        if known is None or not known.bits & bits:
            return
        known.bits &= ~bits
        if not known.bits:
            del self._guests[uuid]
            self._log.info("domain.answered", domain=name, uuid=uuid)

    def refused_by_all(self, bit: int, reason: str) -> None:
        """Take note that nobody was answered for a group."""
        known = self._groups.get(bit)
        if known is None:
            self._log.warning("group.refused", groups=_names(bit), reason=reason)
            known = self._groups[bit] = _Refusal(bit, reason, 0.0, RETRY_SECONDS[0] / 2)
        known.pause = min(2 * known.pause, RETRY_SECONDS[1])
        known.retry_at = self._clock() + known.pause
        for uuid, refusal in list(self._guests.items()):
            refusal.bits &= ~bit  # it is nothing of the guest's
            if not refusal.bits:
                del self._guests[uuid]

    def answered_by_some(self, bits: int) -> None:
        """Take note that these groups were answered."""
        for bit in [bit for bit in self._groups if bits & bit]:
            del self._groups[bit]
            self._log.info("group.answered", groups=_names(bit))


def single(bits: int) -> list[int]:
    """Return the groups among these, each by itself."""
    return [group.bit for group in POLLED.values() if bits & group.bit]


def _names(bits: int) -> list[str]:
    return [name for name, group in POLLED.items() if group.bit & bits]
