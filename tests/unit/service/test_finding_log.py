"""Findings in the log: all that matters, and no flood."""

from __future__ import annotations

from collections import Counter

import structlog
from structlog.testing import capture_logs

from virtstatd.insight.findings import HOST_MEMORY_LOW, STEAL, FindingKind
from virtstatd.insight.judge import Finding
from virtstatd.insight.wording import Subject
from virtstatd.service.finding_log import LINES, SECONDS, FindingLog
from virtstatd.testing import make_domain
from virtstatd.testing.clock import FakeClock


GUESTS = 2000


def found(kind: FindingKind, number: int | None = None, *, ended: bool = False) -> Finding:
    """Return a finding of a guest, or of the host, that begins or has ended."""
    subject = Subject(None if number is None else make_domain(number))
    return Finding(kind, subject, 0.1, 0.2, 0.0, 0.0, since=1, until=2 if ended else 0)


def test_a_storm_is_some_lines_and_a_count():
    """2,000 guests that hurt at once are 30 lines; each that has one has a second at its end."""
    clock = FakeClock()
    with capture_logs() as lines:
        log = FindingLog(structlog.get_logger(), clock)
        for number in range(GUESTS):
            log.report(found(STEAL, number))
        for number in range(GUESTS):
            log.report(found(STEAL, number, ended=True))
        clock.now += SECONDS
        log.look()
    events = Counter(each["event"] for each in lines)
    assert events == {"finding.began": LINES, "finding.ended": LINES, "finding.more": 1}
    rest = GUESTS - LINES
    assert (lines[-1]["began"], lines[-1]["ended"]) == (rest, rest)
    ended = {each["domain"] for each in lines if each["event"] == "finding.ended"}
    assert {each["domain"] for each in lines if each["event"] == "finding.began"} == ended


def test_what_is_of_the_host_has_its_line_in_any_storm():
    """It is no part of the count, and neither is a guest of the next minute."""
    clock = FakeClock()
    with capture_logs() as lines:
        log = FindingLog(structlog.get_logger(), clock)
        for number in range(LINES + 1):
            log.report(found(STEAL, number))
        log.report(found(HOST_MEMORY_LOW))
        log.report(found(HOST_MEMORY_LOW, ended=True))
        clock.now += SECONDS
        log.report(found(STEAL, LINES + 1))
        clock.now += SECONDS
        log.look()
    assert [each["event"] for each in lines[LINES:]] == [
        *("finding.began", "finding.ended", "finding.more", "finding.began")
    ]
    assert lines[LINES]["finding"] == "host_memory_low"
