"""Findings that begin and end, and events, as batches for sinks that take records."""

from __future__ import annotations

from typing import Final

from virtstatd.catalog import Catalog
from virtstatd.insight.judge import Finding
from virtstatd.model import Batch, Happening, Reading


GROUP: Final = "finding"
EVENT_GROUP: Final = "event"
NAMES: Final = ("id", "finding", "severity", "device", "unit", "since", "until", "text", "advice")


def record_of(finding: Finding, catalog: Catalog) -> Batch:
    """Return a finding as it begins or has ended: one reading, of its guest where it has one."""
    document = finding.document()
    facts = {name: str(document[name]) for name in NAMES if document.get(name)}
    shape = catalog.shape(
        GROUP, [("active", ()), ("value", ()), ("threshold", ()), ("text", facts)]
    )
    values = (int(not finding.until), finding.value, finding.threshold, 1)
    reading = Reading(finding.subject.domain, shape, values)
    return Batch(GROUP, finding.until or finding.since, (reading,))


def record_of_event(happening: Happening, catalog: Catalog) -> Batch:
    """Return an event as one reading of its guest."""
    facts = {
        "event": happening.event,
        "detail": happening.detail,
        "device": happening.device,
        "more": happening.more,
    }
    known = {name: text for name, text in facts.items() if text}
    shape = catalog.shape(EVENT_GROUP, [("count", ()), ("text", known)])
    reading = Reading(happening.domain, shape, (happening.count, 1))
    return Batch(EVENT_GROUP, happening.at, (reading,))
