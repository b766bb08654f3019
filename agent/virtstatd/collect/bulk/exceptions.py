"""
Which guests are polled apart, and for which groups: what they are refused costs them alone.

With libvirt 9 one guest's error fails the call for all. Who it was is found by halving, and is then
remembered: for a while that guest is polled without the groups that it is refused, together with
others that lack the same, and now and then by itself for all of them again. A guest whose groups
are too large together is polled for one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.bulk.answer import POLLED


RETRY_SECONDS: Final = (300.0, 3600.0)
"""First and longest pause before a guest is polled for everything, or all for a group."""

ALL_REFUSED: Final = 10
"""So many guests that are refused a group, and none that ever was not: the driver lacks it."""


class _Refusal:
    """How long something is not polled: longer each time that it is refused again."""

    def __init__(self, now: float) -> None:
        self._pause = RETRY_SECONDS[0]
        self.retry_at = now + self._pause

    def again(self, now: float) -> None:
        """Begin a longer pause where one is over."""
        if now >= self.retry_at:
            self._pause = min(2 * self._pause, RETRY_SECONDS[1])
            self.retry_at = now + self._pause


@dataclass(slots=True)
class _Guest:
    """What a guest is refused, by group, and which groups it is refused together."""

    name: str
    groups: dict[int, _Refusal] = field(default_factory=dict)
    together: dict[int, _Refusal] = field(default_factory=dict)
    reason: str = ""
    reported: bool = False


class Exceptions:
    """Remember what libvirt refuses, of a guest or of all, and log when that begins and ends."""

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._guests: dict[str, _Guest] = {}
        self._groups: dict[int, _Refusal] = {}
        self._granted = 0
        self._unreported: dict[str, int] = {}
        self._searches = 0
        self.found = 0
        """How often a guest was found that is refused something which others are not."""

    @property
    def guests(self) -> int:
        """How many guests are refused groups."""
        return sum(bool(guest.groups) for guest in self._guests.values())

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
        self._unreported.clear()
        self._granted = 0

    def asked(self, bits: int) -> int:
        """Return the groups among `bits` that guests are polled for at all now."""
        now = self._clock()
        for bit, refusal in self._groups.items():
            if bits & bit and now < refusal.retry_at:
                bits &= ~bit
        return bits

    def concern(self, bits: int) -> bool:
        """Return whether all guests cannot be polled for these groups at once."""
        return any(self._concerned(guest, bits) for guest in self._guests.values())

    def lists(
        self, uuids: Iterable[str], bits: int
    ) -> tuple[dict[int, list[str]], list[tuple[str, int]]]:
        """Return the guests polled together, by groups, and those alone, with theirs."""
        now = self._clock()
        together: dict[int, list[str]] = {bits: []}
        alone: list[tuple[str, int]] = []
        for uuid in uuids:
            guest = self._guests.get(uuid)
            if guest is None or not self._concerned(guest, bits):
                together[bits].append(uuid)
                continue
            some = bits
            for bit, refusal in guest.groups.items():
                if now < refusal.retry_at:
                    some &= ~bit
            if any(of & ~some == 0 and now < each.retry_at for of, each in guest.together.items()):
                alone.extend((uuid, bit) for bit in single(some))
            elif any(some & bit for bit in guest.groups) or guest.together:
                alone.append((uuid, some))  # a trial, which may fail
            elif some:
                together.setdefault(some, []).append(uuid)
        return {some: those for some, those in together.items() if those}, alone

    def refused(self, uuid: str, name: str, bit: int, reason: str) -> None:
        """Take note that a guest alone was refused a group."""
        guest = self._guests.setdefault(uuid, _Guest(name))
        guest.reason = guest.reason or reason
        self.found += 1
        self._refuse(guest.groups, bit)

    def too_large(self, uuid: str, name: str, bits: int) -> None:
        """Take note that a guest alone was refused these groups together, and none by itself."""
        self.found += 1
        self._refuse(self._guests.setdefault(uuid, _Guest(name)).together, bits)

    def answered(self, uuid: str, bits: int) -> None:
        """Take note that a guest alone was answered for these groups."""
        guest = self._guests.get(uuid)
        if guest is None:
            return
        for bit in [bit for bit in guest.groups if bit & bits]:
            del guest.groups[bit]
        for of in [of for of in guest.together if of & ~bits == 0]:
            del guest.together[of]
        self._forget(uuid, guest)

    def all_refused(self, bit: int, refused: int, running: int, reason: str) -> bool:
        """Return whether no guest has a group, by the number of refusals."""
        if self._granted & bit or refused < max(1, min(ALL_REFUSED, running)):
            return False
        if bit not in self._groups:
            self._unreported[reason] = self._unreported.get(reason, 0) | bit
        self._refuse(self._groups, bit)
        for uuid, guest in list(self._guests.items()):
            guest.groups.pop(bit, None)  # it is nothing of the guest's
            self._forget(uuid, guest)
        return True

    def answered_by_some(self, bits: int) -> None:
        """Take note that these groups were answered."""
        self._granted |= bits
        for bit in [bit for bit in self._groups if bits & bit]:
            del self._groups[bit]
            if bit & sum(self._unreported.values()):
                self._unreported = {why: of & ~bit for why, of in self._unreported.items()}
            else:
                self._log.info("group.answered", groups=_names(bit))

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Have what is found in this block reported when no search is under way any more."""
        self._searches += 1
        try:
            yield
        finally:
            self._searches -= 1
            if not self._searches:
                self._report()

    def _report(self) -> None:
        """Name the groups and the guests that were found since the last time, each guest once."""
        for reason, bits in self._unreported.items():
            if bits:
                self._log.warning("group.refused", groups=_names(bits), reason=reason)
        self._unreported.clear()
        for uuid, guest in self._guests.items():
            if guest.groups and not guest.reported:
                guest.reported = True
                groups = _names(sum(guest.groups))
                self._log.warning(
                    "domain.refused",
                    domain=guest.name,
                    uuid=uuid,
                    groups=groups,
                    reason=guest.reason,
                )

    def _refuse(self, known: dict[int, _Refusal], bits: int) -> None:
        now = self._clock()
        if bits in known:
            known[bits].again(now)
        else:
            known[bits] = _Refusal(now)

    def _forget(self, uuid: str, guest: _Guest) -> None:
        if not guest.groups and guest.reported:
            self._log.info("domain.answered", domain=guest.name, uuid=uuid)
            guest.reported, guest.reason = False, ""
        if not guest.groups and not guest.together:
            del self._guests[uuid]

    @staticmethod
    def _concerned(guest: _Guest, bits: int) -> bool:
        return any(bit & bits for bit in guest.groups) or any(
            of & ~bits == 0 for of in guest.together
        )


def single(bits: int) -> list[int]:
    """Return the groups among these, each by itself."""
    return [group.bit for group in POLLED.values() if bits & group.bit]


def _names(bits: int) -> list[str]:
    return [name for name, group in POLLED.items() if group.bit & bits]
