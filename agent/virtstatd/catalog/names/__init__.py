"""Names of other tools for the agent's numbers, as data: one TOML file per tool."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final, Literal

from virtstatd.catalog.names.dialect import Dialect, OtherMetric, read_dialect
from virtstatd.catalog.table import markdown, plain


__all__ = ["TOOLS", "dialect", "dialect_rows", "dialect_table"]

TOOLS: Final = ("inovex", "tinkoff", "kumina", "ceilometer")

_HEAD = ("metric", "kind", "labels", "from")


@cache
def dialect(name: str) -> Dialect:
    """
    Return the names of a tool.

    Raises FileNotFoundError where there is no such tool, ConfigError with all faults of its file.
    """
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return read_dialect(name, text)


def dialect_table(of: Dialect, word: str = "", form: Literal["text", "markdown"] = "text") -> str:
    """Return a table of the tool's metrics with a word in their line, empty if there is none."""
    if rows := dialect_rows(of, word):
        return markdown(_HEAD, rows) if form == "markdown" else plain(_HEAD, rows)
    return ""


def dialect_rows(of: Dialect, word: str = "") -> list[tuple[str, str, str, str]]:
    """Return name, kind, labels and origin of each metric with a word in its line."""
    rows = [_row(of, name, metric) for name, metric in of.metrics.items()]
    rows += [(name, "missing", "", reason) for name, reason in of.missing.items()]
    return [row for row in rows if word.casefold() in " ".join(row).casefold()]


def _row(of: Dialect, name: str, metric: OtherMetric) -> tuple[str, str, str, str]:
    given = metric.labels if metric.host else (*of.labels, *metric.labels)
    labels = sorted(each.name for each in given)
    made = " + ".join(metric.sources)
    if metric.beside:
        made += f", {', '.join(metric.beside)}"
    if metric.how and len(metric.sources) + len(metric.beside) > 1:
        made = f"{metric.how.replace('_', ' ')} of {made}"
    elif metric.how:
        made = f"{metric.how} {made}"
    return name, metric.field.kind.value, ", ".join(labels), made
