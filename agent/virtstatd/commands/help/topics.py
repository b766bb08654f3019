"""Every topic of `virtstatd help`, made of the texts that options, events and fields carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Final

from virtstatd import catalog
from virtstatd.catalog import Line
from virtstatd.catalog.names import TOOLS, dialect, dialect_rows
from virtstatd.commands.help.blocks import Explained, Heading, HelpBlock, Paragraph
from virtstatd.config.file import DEFAULT_FILE
from virtstatd.config.options import Option, options
from virtstatd.config.plugins import SINKS
from virtstatd.config.tables import CollectorHead
from virtstatd.config.text import (
    TablePart,
    assignment,
    common_options,
    meaning,
    plain_tables,
    summary,
)
from virtstatd.errors import ConfigError
from virtstatd.formats.naming import metric_name
from virtstatd.insight.findings import FINDINGS, FindingKind
from virtstatd.insight.wording import Subject, finding_text, spoken
from virtstatd.model import Domain
from virtstatd.pipeline.promises import PROMISES
from virtstatd.runtime.events import EVENTS


Body = Callable[[], Iterator[HelpBlock]]

EXAMPLE_SECONDS: Final = 15.0
"""Value of a finding whose threshold depends on the configuration."""

EXAMPLE: Final = Subject(Domain("UUID", "GUEST", 1, ()), "DEVICE")


def config_topic() -> Iterator[HelpBlock]:
    """Yield how the configuration works, and its tables."""
    yield Paragraph(
        f"The configuration is one TOML file, `{DEFAULT_FILE}`. Every option has a default."
        " `virtstatd check` reports every error of the file, with its line and a remedy."
        " `systemctl reload virtstatd` applies it. `virtstatd config` prints every option with its"
        " default; `virtstatd config --schema` prints a JSON schema for editors."
    )
    for part in _tables():
        yield Explained(bracketed(part.name), "", part.about)


def sinks_topic() -> Iterator[HelpBlock]:
    """Yield each sink, with the class of its delivery and what has to be installed for it."""
    yield Paragraph(
        "A sink is a destination of numbers: one `[[sink]]` table each, also several of one type."
        " Options of a type: `virtstatd help TYPE`; options that all have: `virtstatd help sink`."
    )
    for name in SINKS.names():
        try:
            cls = SINKS.find(name)
        except ConfigError as error:  # a library that is not installed hides no other sink
            yield Explained(name, "", str(error))
        else:
            yield Explained(name, cls.delivery, summary(cls))


def delivery_topic() -> Iterator[HelpBlock]:
    """Yield what each class of delivery promises, and its sinks."""
    of: dict[str, list[str]] = {}
    for block in sinks_topic():
        if isinstance(block, Explained) and block.facts:
            of.setdefault(block.facts, []).append(block.term)
    of["spool"] = [*of.get("memory", ()), "each with `spool_bytes`"]
    for name, promise in PROMISES.items():
        text = promise.text[0].upper() + promise.text[1:]
        yield Explained(name, "", f"{text}.", f"Sinks: {', '.join(of.get(name, ()))}.")


def fields_topic() -> Iterator[HelpBlock]:
    """Yield the groups of fields, and how many each has."""
    yield Paragraph(
        "Every statistic is a field of a group. `virtstatd fields WORD` prints those with a word in"
        " their line, `virtstatd fields GROUP` those of a group."
    )
    known = catalog.shipped()
    for group, lines in groupby(known.fields, key=lambda line: line.group):
        tier = known.groups[group].tier
        asked = f", polled in the tier {tier} by default" if tier else ""
        yield Explained(group, f"{len(list(lines))} fields{asked}")


def field_entry(line: Line) -> Explained:
    """Return a field with its kind, unit, labels and origin."""
    assert line.field  # noqa: S101 - only lines that are series are asked for
    known = catalog.shipped().groups
    facts = [line.field.kind.value, line.field.unit]
    if line.labels:
        facts.append(f"by {', '.join(line.labels)}")
    if line.group in known and known[line.group].bit:
        facts.append(f"{line.group}.{line.key}")
    facts.append(f"since libvirt {line.since}" if line.since else "")
    return Explained(metric_name(line.field), "; ".join(filter(None, facts)), line.field.help)


def events_topic(word: str = "") -> Iterator[HelpBlock]:
    """Yield the events of the log with a word in their name."""
    for name, event in EVENTS.items():
        if word in name:
            yield Explained(name, event.level, event.meaning, event.action)


def findings_topic(kinds: Iterable[FindingKind] = FINDINGS) -> Iterator[HelpBlock]:
    """Yield what the agent looks for, from which value on, and what it advises."""
    for kind in kinds:
        value = kind.threshold or EXAMPLE_SECONDS
        text, advice = finding_text(kind, EXAMPLE, value, value)
        facts: list[str] = [kind.severity]
        if kind.threshold and not kind.brief:
            facts.append(f"{'up to' if kind.below else 'from'} {spoken(kind.threshold, kind.unit)}")
        if kind.hold_seconds:
            facts.append(f"for {kind.hold_seconds:g} s")
        if kind.critical:
            facts.append(f"critical at {spoken(kind.critical, kind.unit)}")
        yield Explained(kind.name, ", ".join(facts), f"{text}.", advice)


def steal_topic() -> Iterator[HelpBlock]:
    """Yield what is reported about guests that wait for a CPU."""
    yield Paragraph(
        "Steal is the time that a vCPU was ready to run while no CPU of the host ran it. The guest"
        " shows it as `st` in its `top`. The agent reads it from the kernel and needs no call."
    )
    for title, blocks in (
        ("Findings", findings_topic(each for each in FINDINGS if "steal" in each.name)),
        ("Events of the log", events_topic("steal")),
        ("Fields", map(field_entry, catalog.shipped().listed("steal"))),
        ("Options", table("local")),
    ):
        if found := list(blocks):
            yield Heading(title)
            yield from found


def names_topic() -> Iterator[HelpBlock]:
    """Yield the tools under whose names the agent can give its numbers."""
    yield Paragraph(
        "A sink with `names = TOOL` gives the names, labels and units of that tool, so that its"
        " dashboards go on working. `virtstatd fields --names TOOL` prints them."
    )
    for tool in TOOLS:
        found = dialect(tool)
        facts = f"{len(found.metrics)} metrics, {len(found.missing)} missing"
        yield Explained(tool, facts, f"{found.about}.")


def name_entries(tool: str, word: str = "") -> Iterator[Explained]:
    """Yield the metrics of a tool with a word in their line, also those that are missing."""
    for name, kind, labels, origin in dialect_rows(dialect(tool), word):
        made = f"From {origin}{f'; labels {labels}' if labels else ''}."
        yield Explained(name, kind, origin if kind == "missing" else made)


def _entry(option: Option) -> Explained:
    return Explained(assignment(option), "required" if option.required else "", meaning(option))


GUIDES: Final[Mapping[str, tuple[str, Body]]] = {
    "config": ("the configuration file and its tables", config_topic),
    "sinks": ("where numbers can be sent", sinks_topic),
    "delivery": ("what each class of sinks promises", delivery_topic),
    "fields": ("the statistics, by group", fields_topic),
    "names": ("names of other tools for the statistics", names_topic),
    "events": ("the events of the log: meaning, and what to do", events_topic),
    "findings": ("what the agent looks for, and its advice", findings_topic),
    "steal": ("guests that wait for a CPU", steal_topic),
}


def table(name: str) -> Iterator[HelpBlock]:
    """Yield the options of a table, and of the tables in it; none if there is no such table."""
    for part in _tables():
        if name in (part.name, part.name.split(".")[0]):
            yield Heading(f"{bracketed(part.name)} {part.about}")
            yield from map(_entry, part.options)


def sink_type(name: str) -> Iterator[HelpBlock]:
    """Yield the options of a type of sink; raises ConfigError if there is no such type."""
    cls = SINKS.find(name)
    yield Heading(f"{name} ({cls.delivery}): {summary(cls)}")
    yield from map(_entry, options(cls))


def bracketed(name: str) -> str:
    """Return a table's name as the file has it."""
    return f"[[{name}]]" if name in ("sink", "collector") else f"[{name}]"


def _tables() -> Iterator[TablePart]:
    """Yield the tables of the file, with those that can be there several times."""
    yield from plain_tables()
    yield TablePart("sink", "Options of every sink, whatever its type.", common_options())
    yield TablePart("collector", summary(CollectorHead), options(CollectorHead))


def table_names() -> list[str]:
    """Return the names of the tables at the top of the file."""
    return [*dict.fromkeys(part.name.split(".")[0] for part in _tables())]


def names_of_topics() -> list[str]:
    """Return the names for which `exact` has something."""
    return [*dict.fromkeys((*GUIDES, *table_names(), *SINKS.names()))]


def exact(name: str) -> list[HelpBlock]:
    """Return everything that has this name: guide, table, type of sink; empty if there is none."""
    found: list[HelpBlock] = [*GUIDES[name][1]()] if name in GUIDES else []
    found += table(name)
    if name in SINKS.names():
        found += sink_type(name)
    return found


def named_like(word: str) -> list[HelpBlock]:
    """Return the events, findings, options and fields that have a word in their name."""
    sections: list[tuple[str, Iterable[HelpBlock]]] = [
        (bracketed(part.name), [_entry(each) for each in part.options if word in each.name])
        for part in _tables()
    ]
    sections += [
        ("Findings", findings_topic(each for each in FINDINGS if word in each.name)),
        ("Events of the log", events_topic(word)),
        ("Fields", (e for e in map(field_entry, catalog.shipped().fields) if word in e.term)),
    ]
    found: list[HelpBlock] = []
    for title, section in sections:
        if blocks := list(section):
            found += (Heading(title), *blocks)
    return found


def topics() -> Iterator[HelpBlock]:
    """Yield all topics."""
    yield Paragraph(
        "`virtstatd help TOPIC` explains one of these, a command, or what has the word in its name:"
        " an option, a field, an event or a finding."
    )
    yield Heading("Topics")
    yield from (Explained(name, about) for name, (about, _) in GUIDES.items())
    yield Heading("Tables of the configuration")
    yield Paragraph(", ".join(table_names()))
    yield Heading("Types of sinks")
    yield Paragraph(", ".join(SINKS.names()))
