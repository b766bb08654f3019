"""
Rewrite the generated parts of all READMEs: `python -m virtstatd.commands.reference [FILE…]`.

Each is between `<!-- NAME: generated -->` and `<!-- end -->`; a test fails if one is stale.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from virtstatd import catalog
from virtstatd.catalog import Group, Line
from virtstatd.catalog.table import markdown
from virtstatd.config.plugins import SINKS
from virtstatd.config.text import BUILT_IN, option_tables, sink_sections
from virtstatd.formats.naming import metric_name
from virtstatd.insight.columns import COLUMNS
from virtstatd.insight.findings import FINDINGS
from virtstatd.insight.wording import Subject, finding_text, spoken
from virtstatd.model import Domain
from virtstatd.pipeline.promises import PROMISES
from virtstatd.runtime.events import EVENTS
from virtstatd.serving.schema import api_schema


TOP: Final = Path(__file__).parents[3]

FEATURES: Final = TOP / "config" / "consumers" / "features.toml"

EXAMPLE_SECONDS: Final = 15.0
"""Where the threshold depends on the configuration."""

PART: Final = re.compile(r"(<!-- (?P<name>\w+): generated -->\n).*?(<!-- end -->)", re.DOTALL)

TEST_FOLDERS: Final = ("contract", "integration", "system", "lab", "matrix")
"""Whose files each prove something of the whole; those of `unit` mirror modules."""


def documents() -> list[Path]:
    """Return every Markdown file of the repository."""
    folders = [TOP / name for name in ("agent", "config", "systemd", "tests")]
    found = [*TOP.glob("*.md"), *(file for folder in folders for file in folder.rglob("*.md"))]
    return sorted(found)


def renewed(text: str, folder: Path = TOP) -> str:
    """Return the text of a file in `folder` with its generated parts made again from the code."""

    def renew(found: re.Match[str]) -> str:
        return f"{found[1]}\n{MAKERS[found['name']](folder)}\n{found[3]}"

    return PART.sub(renew, text)


def _api(_: Path) -> str:
    """Return each object of the API's documents with its keys."""
    schema = api_schema()
    of = {each["$ref"].rpartition("/")[2]: path for path, each in schema["paths"].items()}
    rows = []
    for name, each in schema["$defs"].items():
        text = each.get("description", "").replace("\n", " ")
        if name in of and not text.startswith("`/api"):
            text = f"`/api/v1/{of[name]}`: {text}"
        keys = ", ".join(f"`{key}`{_link(value)}" for key, value in each["properties"].items())
        rows.append((name.removesuffix("Json"), text, keys))
    return markdown(("object", "meaning", "keys"), rows)


def _link(of: dict[str, Any]) -> str:
    """Return which object is behind a key."""
    names = re.findall(r"/\$defs/(\w+)Json'", str(of))
    return f" ({', '.join(names)})" if names else ""


def _columns(_: Path) -> str:
    rows = [
        (each.id, ", ".join(f"`{word}`" for word in each.words), each.unit, each.help)
        for each in COLUMNS
    ]
    return markdown(("column", "words", "unit", "meaning"), rows)


def _events(_: Path) -> str:
    """Return every event by its area, which is a heading that links can lead to."""
    parts = []
    for area in dict.fromkeys(name.partition(".")[0] for name in EVENTS):
        rows = [
            (name, event.level, event.meaning, event.action)
            for name, event in EVENTS.items()
            if name.partition(".")[0] == area
        ]
        table = markdown(("event", "level", "meaning", "what to do"), rows)
        parts.append(f"### {area}\n\n{table}")
    return "\n".join(parts)


def _fields(_: Path) -> str:
    """Return a section for each group of the catalog, libvirt's groups first."""
    known = catalog.shipped()
    parts = []
    for group in sorted(known.groups.values(), key=lambda each: each.bit or 1 << 32):
        lines = [line for line in known.fields if line.group == group.name]
        if lines:
            parts.append("\n".join((f"### {group.name}", "", *_about(group), *_rows(lines, group))))
    return "\n".join(parts)


def _about(group: Group) -> Iterator[str]:
    """Yield what the head of a group's file says, and how it is polled."""
    text = resources.files("virtstatd.catalog").joinpath(f"{group.name}.toml").read_text("utf-8")
    head = takewhile(lambda line: line.startswith("# "), text.splitlines())
    yield " ".join(line.removeprefix("# ") for line in head)
    if group.bit:
        asked = "from the guest's monitor" if group.monitor else "without the guest's monitor"
        yield (
            f"In the configuration: `{group.option or group.name}`, of the tier `{group.tier}`"
            f" by default; libvirt {group.since} reports it {asked}."
        )
    yield ""


def _rows(lines: Iterable[Line], group: Group) -> Iterator[str]:
    """Yield the lines of a group's table; only libvirt's groups have keys and versions."""
    head: tuple[str, ...] = ("metric", "kind", "unit", "labels", "meaning")
    rows = []
    for line in lines:
        assert line.field  # noqa: S101 - a row is a series
        labels = ", ".join(f"`{label}`" for label in line.labels)
        row = (metric_name(line.field), line.field.kind.value, line.field.unit, labels)
        more = (f"`{line.group}.{line.key}`", line.since) if group.bit else ()
        rows.append((*row, line.field.help, *more))
    yield markdown((*head, "libvirt's key", "since") if group.bit else head, rows)


def _features(_: Path) -> str:
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


def _findings(_: Path) -> str:
    rows = []
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
        rows.append((kind.name, begins, critical, f"{text}.", f"`{advice}`"))
    return markdown(("finding", "begins at", "critical at", "text", "advice"), rows)


def _promises(folder: Path) -> str:
    of: dict[str, list[str]] = {}
    for name in SINKS.names():
        of.setdefault(SINKS.find(name).delivery, []).append(f"`{name}`")
    of["spool"] = ["each sink of the class memory that has `spool_bytes`"]
    rows = ["| class | sinks | promise | held by |", "|---|---|---|---|"]
    for delivery, promise in PROMISES.items():
        links = [_test(each, folder) for each in promise.tests]
        text = promise.text[0].upper() + promise.text[1:]
        cells = (delivery, ", ".join(of.get(delivery, [])), f"{text}.", "<br>".join(links))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _test(test: str, folder: Path) -> str:
    file, _, name = test.partition("::")
    return f"[{name}]({os.path.relpath(TOP / 'tests' / file, folder)})"


def _sinks(folder: Path) -> str:
    """Return the table of sinks, each with a link to its section."""
    page = os.path.relpath(TOP / "agent" / "virtstatd" / "sinks" / "README.md", folder)
    rows = ["| sink | delivery | what it does |", "|---|---|---|"]
    for name in BUILT_IN:
        sink = SINKS.find(name)
        summary = (sink.__doc__ or "").strip().splitlines()[0]
        rows.append(f"| [{name}]({page}#{name}) | {sink.delivery} | {summary} |")
    return "\n".join(rows) + "\n"


def _tests(folder: Path) -> str:
    """Return what each file of tests of the whole proves, by its own docstring."""
    parts = []
    for name in TEST_FOLDERS:
        rows = [f"| {name} | what it proves |", "|---|---|"]
        for file in sorted((TOP / "tests" / name).glob("test_*.py")):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            short = file.stem.removeprefix("test_")
            rows.append(f"| [{short}]({os.path.relpath(file, folder)}) | {text.splitlines()[0]} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


MAKERS: Final[dict[str, Callable[[Path], str]]] = {
    "api": _api,
    "columns": _columns,
    "events": _events,
    "features": _features,
    "fields": _fields,
    "findings": _findings,
    "options": lambda _: option_tables(),
    "promises": _promises,
    "sink_options": lambda _: sink_sections(),
    "sinks": _sinks,
    "tests": _tests,
}
"""What makes each part, for a file in the folder that it is given."""


if __name__ == "__main__":
    for document in map(Path, sys.argv[1:] or documents()):
        former = document.read_text(encoding="utf-8")
        if (latter := renewed(former, document.resolve().parent)) != former:
            document.write_text(latter, encoding="utf-8")
