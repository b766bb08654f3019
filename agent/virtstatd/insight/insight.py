"""Everything that is known and judged, in one: what a listener shows and what is reported."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from virtstatd.insight.disks import disk_numbers
from virtstatd.insight.document import Document
from virtstatd.insight.documents import Documents, Totals, Whereabouts
from virtstatd.insight.figures import Figures
from virtstatd.insight.guests import row_and_look
from virtstatd.insight.happenings import Happenings, happening_text
from virtstatd.insight.history import GUEST_SERIES, HOST, HOST_SERIES, History
from virtstatd.insight.inside import reports_no_memory
from virtstatd.insight.judge import Finding, Judge, Told
from virtstatd.insight.observing import of_guest, of_host
from virtstatd.model import Happening
from virtstatd.runtime.clock import boottime


ROUND_SECONDS: Final = 5.0
"""How often each guest is looked at for findings, one part of them each second."""

GUESTS_A_SECOND: Final = 100
"""
So many guests are looked at in a second at most: with more than 500 a round takes longer.

Those whose monitor or state has changed are looked at in the next second in any case.
"""


class Insight:
    """
    Take batches, look at the guests in turn, and make documents.

    `failing` returns the names of the sinks that fail now; `told` is called for each finding that
    begins or ends. `history_bytes` limits what is remembered of the last hour.
    """

    def __init__(
        self,
        me: Whereabouts,
        failing: Callable[[], Iterable[str]] = lambda: (),
        told: Told = lambda _: None,
        history_bytes: int = 16 << 20,
        clock: Callable[[], float] = boottime,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self.figures = Figures(clock, wall)
        self.judge = Judge(wall, self._tell)
        self.documents = Documents(self.figures, self.judge, me, failing)
        self.put = self.figures.put
        self.happenings = Happenings()
        self._failing = failing
        self._told = told
        self.history = History(history_bytes)
        self._turn: list[str] = []
        self._sum = Totals()
        self._unreported = self._counted = 0
        self._host_at = -math.inf

    @property
    def version(self) -> str:
        """What changes with everything that documents are made of, except for ages."""
        figures = self.figures
        versions = figures.version, self.judge.version, self.happenings.version
        made = "-".join(f"{each:x}" for each in versions)
        return f"{made}-{figures.clock() // ROUND_SECONDS:.0f}"

    def happened(self, happening: Happening) -> None:
        """Keep an event; a guest's own list has those that do not show in its state."""
        self.happenings.put(happening)
        if happening.event != "lifecycle":
            text = happening_text(happening)
            self.figures.noted(happening.domain.uuid, happening.event, text)

    def events(self, uuid: str, limit: int | None) -> Document:
        """Return the document of the last events, of one guest or all."""
        return {**self.documents.head(), "events": self.happenings.documents(uuid, limit)}

    def look(self) -> Iterator[None]:
        """
        Look at the host and at the guests whose turn it is in this second.

        Yields after each, so that the caller can let others work in between.
        """
        figures = self.figures
        now, wall = figures.clock(), figures.wall() / 1e9
        if now - self._host_at >= ROUND_SECONDS - 0.5:
            self._host_at = now
            host_values = of_host(figures.host(), self._failing(), self._unreported)
            self.judge.look(None, host_values, now)
            yield
        if not self._turn:
            self._turn = [*figures.guests]
            self.judge.gone(self._turn)
            self.history.tidy(self._turn, wall)
            host = self.documents.host(self._sum)
            self.history.put(HOST, wall, [_found(host, name) for name in HOST_SERIES])
            self._sum = Totals()
            self._unreported, self._counted = self._counted, 0
        share = min(GUESTS_A_SECOND, math.ceil(len(figures.guests) / ROUND_SECONDS))
        part, self._turn = [*figures.urgent, *self._turn[:share]], self._turn[share:]
        figures.urgent.clear()
        for uuid in part:
            if guest := figures.guests.get(uuid):
                row, look = row_and_look(guest, now, wall)
                self.judge.look(guest.domain, of_guest(row, look, wall), now)
                self.history.put(uuid, wall, [row[name] for name in GUEST_SERIES])
                for disk, numbers in disk_numbers(look):
                    self.history.put(uuid, wall, numbers, disk)
                self._sum.add(row)
                self._counted += reports_no_memory(look)
                yield

    def history_of(self, key: str) -> Document:
        """Return the last hour of a guest by its UUID with its disks, or of the host."""
        names = GUEST_SERIES if key else HOST_SERIES
        return self.history.document(key, names, self.figures.wall() / 1e9)

    def _tell(self, finding: Finding) -> None:
        if uuid := finding.subject.uuid:
            text = str(finding.document()["text"])
            event = f"{finding.kind.name} {'ended' if finding.until else 'began'}"
            self.figures.noted(uuid, event, text)
        self._told(finding)


def _found(document: Document, name: str) -> float | None:
    """Return a number of the document of the host by its path."""
    table, key = name.split(".")
    found: float | None = document[table][key]
    return found
