"""Findings in the log: each as it begins and ends, but no flood of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.insight.judge import Finding


LINES: Final = 30
"""How many findings of guests have a line within `SECONDS`; on a host in a storm more begin."""

SECONDS: Final = 60.0


class FindingLog:
    """
    Log findings, and count those of guests beyond `LINES` a minute.

    What is found about the host or the agent always has its lines, and a finding that began with a
    line ends with one.
    """

    def __init__(
        self, log: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._clock = clock
        self._since = clock()
        self._lines = 0
        self._logged: set[tuple[str, str, str]] = set()
        self._began = self._ended = 0

    def report(self, finding: Finding) -> None:
        """Log that a finding begins, or that it has ended."""
        self.look()
        of = finding.subject
        key = finding.kind.name, of.uuid, of.device
        if finding.until:
            if key not in self._logged:
                self._ended += 1
                return
            self._logged.discard(key)
        elif of.domain is not None and self._lines >= LINES:
            self._began += 1
            return
        else:
            self._lines += of.domain is not None
            self._logged.add(key)
        self._write(finding)

    def look(self) -> None:
        """Say once a minute how many findings had no line."""
        now = self._clock()
        if now - self._since < SECONDS:
            return
        if self._began or self._ended:
            self._log.warning("finding.more", began=self._began, ended=self._ended)
        self._since = now
        self._lines = self._began = self._ended = 0

    def _write(self, finding: Finding) -> None:
        document, of = finding.document(), finding.subject
        fields = {
            "finding": document["finding"],
            "severity": document["severity"],
            "domain": of.name or None,
            "uuid": of.uuid or None,
            "device": of.device or None,
            "value": document["value"],
            "threshold": document["threshold"],
            "text": document["text"],
        }
        fields = {name: value for name, value in fields.items() if value is not None}
        if not finding.until:
            self._log.warning("finding.began", **fields, advice=document["advice"])
        else:
            self._log.info("finding.ended", **fields)
