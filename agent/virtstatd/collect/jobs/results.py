"""Jobs that have ended: the last one of each guest, and numbers by operation and outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from virtstatd.collect.events.meanings import BLOCK_JOBS, OPERATIONS
from virtstatd.collect.jobs.fields import JobFields, JobItem
from virtstatd.collect.jobs.words import OUTCOMES
from virtstatd.model import Domain, Labels, Number, Reading


LAST: Final = "last_job"

KEPT: Final = (
    "time_elapsed",
    "downtime",
    "data_processed",
    "memory_processed",
    "disk_processed",
    "memory_iteration",
)
KINDS_MAX: Final = 128
"""Operations and outcomes that are counted apart, the known ones included."""


@dataclass(slots=True)
class _Sum:
    """Jobs with one operation and outcome, and the last one of them."""

    count: int = 0
    milliseconds: int = 0
    downtime: int = 0
    processed: int = 0
    last: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class _Last:
    """The last job of a run of a domain."""

    domain: Domain
    labels: Labels
    numbers: Mapping[str, int]


class JobResults:
    """Count jobs that end; the known kinds begin with 0, so that no first one is missed."""

    def __init__(self, fields: JobFields) -> None:
        self._fields = fields
        known = (*OPERATIONS[1:], *(f"block_{each}" for each in BLOCK_JOBS[1:]))
        self._sums = {(each, outcome): _Sum() for each in known for outcome in OUTCOMES}
        self._last: dict[str, _Last] = {}

    def add(
        self, domain: Domain, operation: str, outcome: str, job: Mapping[str, Any], at: int
    ) -> None:
        """Take over a job that ended at a Unix time in nanoseconds."""
        numbers = {key: job[key] for key in KEPT if isinstance(job.get(key), int) and job[key] >= 0}
        numbers["ended"] = at // 1_000_000
        key = (operation, outcome)
        if key not in self._sums and len(self._sums) >= KINDS_MAX:
            key = ("unknown", outcome)
        total = self._sums.setdefault(key, _Sum())
        total.count += 1
        total.milliseconds += numbers.get("time_elapsed", 0)
        total.downtime += numbers.get("downtime", 0)
        total.processed += _processed(numbers) or 0
        total.last = numbers
        labels = (("operation", operation), ("outcome", outcome))
        self._last[domain.uuid] = _Last(domain, labels, numbers)

    def tidy(self, running: Callable[[str], Domain | None]) -> None:
        """Forget the jobs of runs that are over; their numbers stay in the sums."""
        for uuid in [u for u, last in self._last.items() if running(u) is not last.domain]:
            del self._last[uuid]

    def host(self) -> Reading:
        """Return the numbers of all jobs."""
        rows: dict[str, dict[Labels, Number]] = {}
        for (operation, outcome), total in sorted(self._sums.items()):
            labels = (("operation", operation), ("outcome", outcome))
            values: dict[str, Number | None] = {"count": total.count}
            if last := total.last:
                values |= {
                    "time_elapsed": total.milliseconds,
                    "downtime": total.downtime,
                    "processed": total.processed,
                    "last_ended": last["ended"],
                    "last_time_elapsed": last.get("time_elapsed"),
                    "last_downtime": last.get("downtime"),
                    "last_processed": _processed(last),
                }
            for key, value in values.items():
                if value is not None:
                    rows.setdefault(key, {})[labels] = value
        order = sorted(rows)
        numbers: dict[JobItem, Number] = {
            (key, labels): value for key in order for labels, value in rows[key].items()
        }
        return Reading(None, self._fields.shape("jobs", numbers), tuple(numbers.values()))

    def of(self) -> Iterator[tuple[str, Reading]]:
        """Yield the last job of each guest, by its UUID."""
        for uuid, last in self._last.items():
            items = tuple((key, last.labels) for key in sorted(last.numbers))
            values = tuple(last.numbers[key] for key, _ in items)
            yield uuid, Reading(last.domain, self._fields.shape(LAST, items), values)


def _processed(numbers: Mapping[str, int]) -> int | None:
    """Return the bytes that a job transferred, in whatever it says so."""
    if "data_processed" in numbers:
        return numbers["data_processed"]
    several = [numbers[key] for key in ("memory_processed", "disk_processed") if key in numbers]
    return sum(several) if several else None
