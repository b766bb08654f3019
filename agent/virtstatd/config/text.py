"""
The documentation of the configuration, generated from its classes.

`python -m virtstatd.config.text > config/virtstatd.toml` writes the reference file again;
`commands/reference.py` puts the tables into READMEs.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import inspect

from virtstatd.config.options import Option, choices, options
from virtstatd.config.plugins import SINKS
from virtstatd.config.tables import TABLES, CollectorHead, OutletOptions, RouteOptions, SinkHead
from virtstatd.sink import Sink


BUILT_IN: Final = (
    "prometheus",
    "remote_write",
    "otlp",
    "influx",
    "influx_udp",
    "http",
    "graphite",
    "statsd",
    "textfile",
    "jsonl",
    "parquet",
    "nats",
    "kafka",
    "mqtt",
    "postgres",
    "null",
)

SHARED_BY: Final = 3
"""Number of sink types that share an option from which on it is described only once."""

COMMENT: Final = "## "
COLUMNS: Final = 80

_HEAD: Final = """\
#:schema ./virtstatd.schema.json
## Every option of virtstatd with its default; `virtstatd check` reports every error of this file.
## Remove the "# " before an option to change it.
"""
_SINKS: Final = """\
## Sinks: one [[sink]] table each, also several of a type; without any, only prometheus runs.
"""
_COLLECTORS: Final = """\
## Collectors of other packages that are installed with the agent: one [[collector]] table each,
## with its type, an optional name, silent_seconds, and its own options.
"""


@dataclass(frozen=True, slots=True)
class TablePart:
    """A table of the file: its name, such as `poll.pulse`, what it is for, and its own options."""

    name: str
    about: str
    options: Sequence[Option]

    @property
    def text(self) -> str:
        """The table with its defaults, commented out and described."""
        lines = [*_comment(self.about), f"[{self.name}]", *_described(self.options)]
        return "\n".join(lines) + "\n"


def reference() -> str:
    """Return the reference configuration file: every option, described, commented out."""
    tables = (part.text for part in plain_tables())
    sinks = (sink_text(name, common=index == 0) for index, name in enumerate(BUILT_IN))
    return "\n".join([_HEAD, *tables, _COLLECTORS, _SINKS, *sinks])


def sink_text(name: str, *, common: bool) -> str:
    """Return the table of a sink with its defaults; with `common`, also what every sink has."""
    cls: type[Sink] = SINKS.find(name)
    own = (*(common_options() if common else ()), *options(cls))
    lines = [*_comment(summary(cls)), "# [[sink]]", f"# type = {_toml(name)}", *_described(own)]
    return "\n".join(lines) + "\n"


def option_tables() -> str:
    """Return the options as Markdown, a table for each table of the file; sinks are elsewhere."""
    parts: list[str] = []
    for part in plain_tables():
        parts += [f"**`[{part.name}]`** {part.about}", _rows(part.options)]
    text = "**`[[collector]]`** The package of a collector defines its other options."
    return "\n\n".join([*parts, text, _rows(options(CollectorHead))]) + "\n"


def sink_sections() -> str:
    """Return the options of sinks as Markdown: what all have, what many have, and each type's."""
    classes: dict[str, type[Sink]] = {name: SINKS.find(name) for name in BUILT_IN}
    rows = Counter(_row(option) for cls in classes.values() for option in options(cls))
    shared = [row for row, count in rows.items() if count >= SHARED_BY]
    parts = ["### Options of every sink", _rows(common_options())]
    parts += ["### Options that several sinks share", "Each sink below lists those that it has."]
    parts += [_table(shared)]
    for name, cls in classes.items():
        needs = f" Needs `{SINKS.needed(name)}`." if SINKS.needed(name) else ""
        parts += [f"### {name}", f"{summary(cls)} Delivery: {cls.delivery}.{needs}"]
        if special := [row for row in map(_row, options(cls)) if row not in shared]:
            parts.append(_table(special))
        if also := [f"`{option.name}`" for option in options(cls) if _row(option) in shared]:
            parts.append(f"And {', '.join(also)}.")
    return "\n\n".join(parts) + "\n"


def plain_tables() -> Iterator[TablePart]:
    """Yield each plain table of the file; tables in tables, as `[poll.pulse]`, are separate."""
    for name, cls in TABLES.items():
        own: list[Option] = []
        inner: list[Option] = []
        for option in options(cls):
            (inner if isinstance(option.kind, inspect.StructType) else own).append(option)
        if own:
            yield TablePart(name, summary(cls), own)
        for option in inner:
            kind = type(option.default)
            yield TablePart(f"{name}.{option.name}", summary(kind), options(kind))


def common_options() -> list[Option]:
    """Return the options that every sink has, besides its type."""
    return [
        option
        for cls in (SinkHead, RouteOptions, OutletOptions)
        for option in options(cls)
        if option.name != "type"
    ]


def assignment(option: Option) -> str:
    """Return an option with its default as a line of the file."""
    value = '"..."' if option.required else _toml(option.default)
    return f"{option.name} = {value}"


def _described(own: Iterable[Option]) -> Iterator[str]:
    for option in own:
        yield from _comment(meaning(option))
        yield f"# {assignment(option)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=COMMENT,
        subsequent_indent=COMMENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _rows(own: Iterable[Option]) -> str:
    return _table(map(_row, own))


def _table(rows: Iterable[str]) -> str:
    return "\n".join(("| Option | Default | Meaning |", "|---|---|---|", *rows))


def _row(option: Option) -> str:
    default = "required" if option.required else f"`{_toml(option.default)}`"
    text = meaning(option).replace("|", "\\|")
    return f"| `{option.name}` | {default} | {text} |"


def meaning(option: Option) -> str:
    """Return the description with its limits: `Calls that may run in parallel; 1 to 3.`."""
    kind = option.kind
    if isinstance(kind, inspect.LiteralType):
        among = choices(kind)
        if not all(each in option.description for each in among):
            return f"{option.description.rstrip('.')}; one of {', '.join(among)}."
    if not isinstance(kind, inspect.IntType | inspect.FloatType):
        return option.description
    bounds = (
        ("at least" if kind.le is None else "from", kind.ge),
        ("more than", kind.gt),
        ("at most" if kind.ge is None else "to", kind.le),
        ("less than", kind.lt),
    )
    limits = " ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)
    return f"{option.description.rstrip('.')}; {limits}." if limits else option.description


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            pairs = (f"{_toml(key)} = {_toml(each)}" for key, each in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case int() | float():
            return str(value)
        case _:
            return _toml(msgspec.to_builtins(value))


def summary(cls: type) -> str:
    """Return the first line of a class's description."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


if __name__ == "__main__":
    sys.stdout.write(reference())
