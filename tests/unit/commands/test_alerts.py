"""The alerts for Prometheus: one for each finding, with the finding's own numbers."""

from __future__ import annotations

from pathlib import Path

from virtstatd.commands.alerts import alerts_of, rules
from virtstatd.insight.findings import FINDINGS


FOLDER = Path(__file__).parents[3] / "config" / "prometheus"
ENTRIES = alerts_of(FOLDER / "alerts.toml")


def test_every_finding_is_an_alert():
    """A finding that is added needs an entry in config/prometheus/alerts.toml."""
    kinds = {(kind.name, "{device}" in kind.text) for kind in FINDINGS}
    assert {(each.finding, bool(each.device)) for each in ENTRIES if each.finding} == kinds
    assert len({each.name for each in ENTRIES}) == len(ENTRIES)


def test_an_alert_without_a_finding_says_what_to_do():
    """What no agent can find has a text and a command of its own."""
    own = [each for each in ENTRIES if not each.finding]
    assert own
    assert all(each.text and each.advice and each.threshold for each in own)


def test_the_alerts_are_those_of_the_findings():
    """The file is what `make generated` writes now, thresholds and advice included."""
    assert (FOLDER / "alerts.yml").read_text() == rules(ENTRIES)


def test_a_name_cannot_add_a_command_to_the_advice():
    """What a shell reads in a label is replaced, where a command is shown to be copied."""
    text = rules(ENTRIES)
    assert "virsh schedinfo {{ $labels" not in text
    assert "$labels.domain" in text
