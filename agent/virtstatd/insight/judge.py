"""Says which findings begin and end, so that none flaps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from virtstatd.insight.document import stamp
from virtstatd.insight.findings import (
    RELEASE_SECONDS,
    FindingKind,
    Severity,
)
from virtstatd.insight.wording import Subject, finding_text
from virtstatd.model import Domain


RECENT_MAX: Final = 50
"""How many findings that ended are remembered."""

UNKNOWN_SECONDS: Final = 60.0
"""A finding whose value is not known any more ends after this time."""


class Observed(NamedTuple):
    """A value that is known now; a `threshold` of its own replaces that of the kind."""

    kind: FindingKind
    device: str
    value: float
    threshold: float | None = None


@dataclass(slots=True, eq=False)
class Finding:
    """
    Something that hurts, or is about to; `since` and `until` are Unix times in nanoseconds.

    `value` is the last one at the threshold or beyond, which `severity` and the text go by.
    """

    kind: FindingKind
    subject: Subject
    threshold: float
    value: float
    begun: float
    seen: float
    since: int = 0
    until: int = 0
    good_since: float | None = None
    severity: Severity = "warning"

    def document(self) -> dict[str, Any]:
        """Return it as documents have it."""
        kind, subject = self.kind, self.subject
        text, advice = finding_text(kind, subject, self.value, self.threshold)
        return {
            "id": f"{kind.name}/{subject.uuid}/{subject.device}",
            "finding": kind.name,
            "severity": self.severity,
            "since": stamp(self.since),
            **({"until": stamp(self.until)} if self.until else {}),
            "guest": {"uuid": subject.uuid, "name": subject.name} if subject.uuid else None,
            "device": subject.device or None,
            "value": self.value,
            "threshold": self.threshold,
            "unit": kind.unit,
            "text": text,
            "advice": advice,
        }


Told = Callable[[Finding], None]
"""Is called when a finding begins, and when it ends: then its `until` is set."""


class Judge:
    """Keep the findings of each guest and of the host; `version` rises when one changes."""

    def __init__(self, wall: Callable[[], int], told: Told = lambda _: None) -> None:
        self.version = 0
        self.turns = 0
        """How many findings began or ended."""

        self._wall = wall
        self._told = told
        self._of: dict[str, dict[tuple[str, str], Finding]] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT_MAX)

    def look(self, domain: Domain | None, observed: Iterable[Observed], now: float) -> None:
        """Compare everything that is known of a guest now, or of the host."""
        uuid = domain.uuid if domain else ""
        of = self._of.get(uuid)
        for each in observed:
            kind = each.kind
            threshold = kind.threshold if each.threshold is None else each.threshold
            if of is None and not kind.hurts(each.value, threshold):
                continue
            key = kind.name, each.device
            finding = of.get(key) if of else None
            if finding is None:
                if not kind.hurts(each.value, threshold):
                    continue
                subject = Subject(domain, each.device)
                finding = Finding(kind, subject, threshold, each.value, now, now)
                if of is None:
                    of = self._of[uuid] = {}
                of[key] = finding
            self._compare(finding, each.value, threshold, now)
        if of:
            for key, finding in [*of.items()]:
                if finding.seen < now and (
                    not finding.since or now - finding.seen >= UNKNOWN_SECONDS
                ):
                    self._end(of, key)
            if not of:
                del self._of[uuid]

    def gone(self, known: Iterable[str]) -> None:
        """End the findings of guests that are not known any more."""
        for uuid in self._of.keys() - {"", *known}:
            of = self._of.pop(uuid)
            for key in [*of]:
                self._end(of, key)

    def of(self, uuid: str) -> tuple[int, str]:
        """Return how many findings a guest has, and the worst severity."""
        if uuid not in self._of:
            return 0, ""
        active = [each.severity for each in self._of[uuid].values() if each.since]
        if not active:
            return 0, ""
        return len(active), "critical" if "critical" in active else "warning"

    def counts(self) -> dict[str, int]:
        """Return how many findings there are by severity."""
        all_of = [each.severity for each in self._active()]
        return {each: all_of.count(each) for each in ("critical", "warning")}

    def documents(self, uuid: str | None = None) -> list[dict[str, Any]]:
        """Return the findings, of one guest or all: critical first, then the longest."""
        several = sorted(self._active(), key=lambda each: (each.severity, each.since))
        return [each.document() for each in several if uuid is None or each.subject.uuid == uuid]

    def recent(self) -> list[dict[str, Any]]:
        """Return the findings that ended, the last one first."""
        return [*self._recent]

    def _active(self) -> list[Finding]:
        return [each for of in self._of.values() for each in of.values() if each.since]

    def _compare(self, finding: Finding, value: float, threshold: float, now: float) -> None:
        kind = finding.kind
        finding.seen = now
        if kind.hurts(value, threshold):
            if finding.since and (finding.value, finding.threshold) != (value, threshold):
                self.version += 1
            finding.value, finding.threshold = value, threshold
            finding.good_since = None
            finding.severity = kind.severity_of(value)
            if not finding.since and now - finding.begun >= kind.hold_seconds:
                finding.since = self._wall()
                self.version += 1
                self.turns += 1
                self._told(finding)
        elif not finding.since:
            finding.seen = -1.0  # it never held
        elif not kind.released(value, threshold):
            finding.good_since = None
        elif finding.good_since is None and not kind.brief:
            finding.good_since = now
        elif kind.brief or now - (finding.good_since or now) >= RELEASE_SECONDS:
            finding.seen = -UNKNOWN_SECONDS

    def _end(self, of: dict[tuple[str, str], Finding], key: tuple[str, str]) -> None:
        finding = of.pop(key)
        if finding.since:
            self.version += 1
            self.turns += 1
            finding.until = self._wall()
            self._recent.appendleft(finding.document())
            self._told(finding)
