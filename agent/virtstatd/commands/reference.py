"""
Rewrite the generated parts of READMEs: `python -m virtstatd.commands.reference FILE…`.

Each is between `<!-- NAME: generated -->` and `<!-- end -->`; a test fails if one is stale.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from virtstatd import catalog
from virtstatd.config.plugins import SINKS
from virtstatd.config.text import markdown_tables
from virtstatd.insight.findings import FINDINGS
from virtstatd.insight.wording import Subject, finding_text, spoken
from virtstatd.model import Domain
from virtstatd.pipeline.promises import PROMISES


TEMPLATE = Path(__file__).parents[3] / "tests" / "template_sink" / "virtstatd_webhook.py"

FEATURES = Path(__file__).parents[3] / "config" / "consumers" / "features.toml"

EXAMPLE_SECONDS = 15.0
"""Where the threshold depends on the configuration."""

PART = re.compile(r"(<!-- (?P<name>\w+): generated -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(text: str) -> str:
    """Return the text with all of its generated parts regenerated from the code."""
    makers = {
        "features": _features,
        "fields": _fields,
        "findings": _findings,
        "options": markdown_tables,
        "sinks": _sinks,
        "promises": _promises,
        "template": _template,
    }

    def renew(found: re.Match[str]) -> str:
        return f"{found[1]}\n{makers[found['name']]()}\n{found[3]}"

    return PART.sub(renew, text)


def _fields() -> str:
    return catalog.shipped().table("markdown").strip() + "\n"


def _features() -> str:
    tables = tomllib.loads(FEATURES.read_text(encoding="utf-8"))
    parts = []
    for head, rows in (("How it works", tables["way"]), ("What it reports", tables["field"])):
        lines = [f"| {head} | in virtstatd |", "|---|---|"]
        for row in rows:
            names = [f"`{each}`" for each in (*row.get("metrics", ()), *row.get("options", ()))]
            lines.append(f"| {row['feature']} | {', '.join([*names, *_texts(row)])} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _texts(row: dict[str, str]) -> list[str]:
    return [row["text"]] if "text" in row else []


def _findings() -> str:
    rows = ["| finding | begins at | critical at | says | advises |", "|---|---|---|---|---|"]
    subject = Subject(Domain("UUID", "GUEST", 1, ()), "DEVICE")
    for kind in FINDINGS:
        value = kind.threshold or EXAMPLE_SECONDS
        text, advice = finding_text(kind, subject, value, value)
        begins = spoken(kind.threshold, kind.unit) if kind.threshold and not kind.brief else ""
        if begins and kind.hold_seconds:
            begins += f" for {kind.hold_seconds:g} s"
        critical = spoken(kind.critical, kind.unit) if kind.critical else ""
        if kind.severity == "critical":
            critical = "always"
        rows.append(f"| `{kind.name}` | {begins} | {critical} | {text}. | `{advice}` |")
    return "\n".join(rows) + "\n"


def _promises() -> str:
    of: dict[str, list[str]] = {}
    for name in SINKS.names():
        of.setdefault(SINKS.find(name).delivery, []).append(f"`{name}`")
    of["spool"] = [f"{', '.join(of['memory'])}, each with `spool_bytes`"]
    rows = ["| class | sinks | promise | held by |", "|---|---|---|---|"]
    for delivery, promise in PROMISES.items():
        tests = "<br>".join(
            f"[{each.split('::')[1]}](tests/{each.split('::')[0]})" for each in promise.tests
        )
        text = promise.text[0].upper() + promise.text[1:]
        rows.append(f"| {delivery} | {', '.join(of.get(delivery, []))} | {text}. | {tests} |")
    return "\n".join(rows) + "\n"


def _sinks() -> str:
    rows = ["| type | delivery | needs | what it does |", "|---|---|---|---|"]
    for name in SINKS.names():
        sink = SINKS.find(name)
        summary = (sink.__doc__ or "").strip().splitlines()[0]
        needs = f"`{SINKS.needed(name)}`" if SINKS.needed(name) else ""
        rows.append(f"| `{name}` | {sink.delivery} | {needs} | {summary} |")
    return "\n".join(rows) + "\n"


def _template() -> str:
    return f"```python\n{TEMPLATE.read_text(encoding='utf-8')}```\n"


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        file.write_text(renewed(file.read_text(encoding="utf-8")), encoding="utf-8")
