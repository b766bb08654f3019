"""
Write the alerts for Prometheus: `python -m virtstatd.commands.alerts FOLDER/alerts.toml`.

What the agent finds and what Prometheus alerts on have one table: thresholds, severities, texts and
advice come from the findings, queries from the file named. Only what no agent can find, as that a
host has no agent, brings a text of its own. The result is `alerts.yml` beside the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Final

import msgspec

from virtstatd.insight.columns import Unit
from virtstatd.insight.findings import FINDINGS, FindingKind, Severity


HEAD: Final = """\
# Alerts on what hurts a guest, its host or the agent. `make generated` writes them from alerts.toml
# and the agent's table of findings, with the agent's own thresholds: change those, not this file.
groups:
  - name: virtstatd-findings
    rules:
"""
HOST: Final = "/d/virtstatd-host?var-instance={{ urlquery $labels.instance }}"
GUEST: Final = (
    "/d/virtstatd-guest?var-instance={{ urlquery $labels.instance }}"
    "&var-domain={{ urlquery $labels.domain }}"
)
"""The dashboards, as paths of Grafana."""

VALUES: Final = {
    "ratio": "{{ $value | humanizePercentage }}",
    "seconds": "{{ $value | humanizeDuration }}",
    "per_second": "{{ $value | humanize }}/s",
    "count": "{{ $value | humanize }}",
}
SAFE: Final = '{{{{ reReplaceAll "[^A-Za-z0-9_.:@+=-]" "?" $labels.{} }}}}'
"""A label in a command to be copied: what a shell may read otherwise is replaced."""


class Alert(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    One entry of the file; `device` is the label that names the device of the finding.

    `threshold` is an operator and what it compares with, empty for those of the table. The alert
    fires after `minutes`, or at once. Without a `finding`, severity, unit, text and advice are its
    own.
    """

    name: str
    query: str
    finding: str = ""
    device: str = ""
    threshold: str = ""
    minutes: int = 0
    severity: Severity = "warning"
    unit: Unit = "count"
    text: str = ""
    advice: str = ""

    @property
    def kind(self) -> FindingKind:
        """The line of the table of findings; raises `StopIteration` if there is none."""
        if not self.finding:
            return FindingKind("", self.severity, self.unit, 0.0, self.text, self.advice)
        return next(
            kind
            for kind in FINDINGS
            if kind.name == self.finding and ("{device}" in kind.text) == bool(self.device)
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alert: list[Alert]


def alerts_of(file: Path) -> list[Alert]:
    """Return the entries; raises `msgspec.ValidationError` naming what is wrong."""
    return msgspec.toml.decode(file.read_bytes(), type=_File).alert


def rules(alerts: list[Alert]) -> str:
    """Return the alerts as a file of rules."""
    return HEAD + "\n".join(text for alert in alerts for text in _rules(alert))


def _rules(alert: Alert) -> Iterator[str]:
    kind = alert.kind
    if alert.threshold:
        yield _rule(alert, alert.threshold, kind.severity)
        return
    sign = "<=" if kind.below else ">="
    yield _rule(alert, f"{sign} {kind.threshold:g}", kind.severity)
    if kind.critical is not None:
        yield _rule(alert, f"{sign} {kind.critical:g}", "critical")


def _rule(alert: Alert, threshold: str, severity: str) -> str:
    kind = alert.kind
    words = {
        "name": "{{ $labels.domain }}",
        "uuid": SAFE.format("domain"),
        "device": f"{{{{ $labels.{alert.device} }}}}",
        "quoted": SAFE.format(alert.device),
        "value": VALUES[kind.unit],
        "threshold": threshold,
    }
    expression = f"{alert.query.strip()} {threshold}"
    lines = [f"- alert: {alert.name}", "  expr: |", indent(expression, "    ")]
    if alert.minutes:
        lines.append(f"  for: {alert.minutes}m")
    summary = "{{ $labels.instance }}: " + kind.text.format_map(words)
    lines += ["  labels:", f"    severity: {severity}"]
    lines += [f"    finding: {kind.name}"] if kind.name else []
    lines += [
        "  annotations:",
        f"    summary: {json.dumps(summary, ensure_ascii=False)}",
        f"    runbook: {json.dumps(kind.advice.format_map(words), ensure_ascii=False)}",
        f"    dashboard: {json.dumps(GUEST if '{name}' in kind.text else HOST)}",
    ]
    return indent("\n".join(lines), "      ") + "\n"


if __name__ == "__main__":
    source = Path(sys.argv[1])
    source.with_suffix(".yml").write_text(rules(alerts_of(source)), encoding="utf-8")
