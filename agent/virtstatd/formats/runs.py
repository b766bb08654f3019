"""When each run of a domain began, as far as what is sent tells."""

from __future__ import annotations

from virtstatd.model import Batch, Domain


class Runs:
    """
    Remember when each incarnation of a domain was first seen, which is where its counters begin.

    The beginning is also *witnessed* when the domain was not there before, so that its counters
    were at zero then: another run of it is known, or everything that ran at the first batch has
    long been seen.
    """

    def __init__(self) -> None:
        self._began: dict[str | None, tuple[int, int, bool]] = {}
        self._complete_at: int | None = None

    def began(self, domain: Domain | None, batch: Batch) -> int:
        """Return the time in nanoseconds; the first reading of a run sets it."""
        return min(self._known(domain, batch)[1], batch.taken_at)

    def witnessed(self, domain: Domain | None, batch: Batch) -> int:
        """Return the time of a beginning that was witnessed, 0 for any other."""
        _, began, witnessed = self._known(domain, batch)
        return began if witnessed and began <= batch.taken_at else 0

    def settle(self, batch: Batch) -> None:
        """Forget the runs that have ended."""
        for domain in batch.gone:
            if self._began.get(domain.uuid, (None,))[0] == domain.id:
                del self._began[domain.uuid]

    def _known(self, domain: Domain | None, batch: Batch) -> tuple[int, int, bool]:
        if self._complete_at is None:
            self._complete_at = batch.taken_at + round(batch.lifetime_seconds * 1e9)
        uuid, run = (domain.uuid, domain.id) if domain else (None, 0)
        known = self._began.get(uuid)
        if known is None or known[0] != run:
            new = known is not None or batch.taken_at > self._complete_at
            known = self._began[uuid] = run, batch.taken_at, new and domain is not None
        return known
