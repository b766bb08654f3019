"""
Every statistic that virtstatd knows, as data: one TOML file per group, one line per key.

`load` reads and checks them. `lines.py` documents the content of a file, `decode.py` how a record
of libvirt's becomes readings. The groups with a `bit` are libvirt's own; `agent`, `domain` and
`unknown` are for the daemon's own numbers, for facts from a domain's XML, and for keys without a
line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from virtstatd.catalog.lines import EnumNames, Group, Line, Role
from virtstatd.catalog.match import Match, Tree
from virtstatd.catalog.reader import CatalogReader
from virtstatd.catalog.table import markdown, plain
from virtstatd.errors import ConfigError
from virtstatd.model import Field, Kind, Labels, Series, Shape, shared_series


__all__ = ["Catalog", "Group", "Line", "load", "shipped"]

_HEAD = ("metric", "kind", "unit", "key", "since", "help")


class Catalog:
    """
    The checked lines of every group; it never changes.

    `groups` are the headers by name, `fields` the lines that become series, libvirt's groups first
    in the order of their bits, and `enums` the names of libvirt's numbers.
    """

    def __init__(
        self,
        groups: Mapping[str, Group],
        lines: Mapping[tuple[str, str], Iterable[Line]],
        enums: Mapping[str, EnumNames],
    ) -> None:
        self.groups = dict(groups)
        self.enums = dict(enums)
        self._lines = {at: tuple(several) for at, several in lines.items()}
        self._trees = {group.name: Tree() for group in self.groups.values() if group.bit}
        for (group, _), several in self._lines.items():
            if group in self._trees:
                self._trees[group].plant(several)
        fields = [line for several in self._lines.values() for line in several if line.field]
        bits = {name: group.bit or 1 << 32 for name, group in self.groups.items()}
        self.fields = tuple(sorted(fields, key=lambda line: bits[line.group]))

    def line(self, group: str, key: str) -> Line:
        """Return the line that gives a series to this key, written as in the file."""
        for line in self._lines.get((group, key), ()):
            if line.field:
                return line
        raise ValueError(f"the catalog's group {group} has no series under the key {key}")

    def match(self, key: str) -> Match | None:
        """Return the lines for a key of a record, None for a key that the catalog does not know."""
        group, *rest = key.split(".")
        tokens = tuple(rest)
        lines = self._trees[group].find(tokens) if group in self._trees else ()
        return Match(lines, tokens) if lines else None

    def series(self, group: str, key: str, labels: Mapping[str, str] | Labels = ()) -> Series:
        """
        Return one series of a line; its labels must be those of the line.

        An info series may omit labels, since the facts that they hold can be absent.
        """
        line = self.line(group, key)
        pairs = tuple(dict(labels).items())
        names = [name for name, _ in pairs]
        unknown = set(names) - set(line.labels)
        missing = set(line.labels) - set(names) if line.role is not Role.TEXT else set()
        if unknown or missing:
            raise ValueError(f"{group}.{key} has the labels {line.labels}, not {tuple(names)}")
        assert line.field  # noqa: S101 - `line` returns no other
        return shared_series(line.field, pairs)

    def histogram(
        self, group: str, key: str, bounds: Iterable[str], labels: Mapping[str, str] | Labels = ()
    ) -> tuple[Series, ...]:
        """
        Return the parts of a histogram: a bucket per bound and one for +Inf, the sum, the count.

        `bounds` are the upper bounds of the buckets in rising order, as decimal text.
        """
        whole = self.series(group, key, labels)
        return (
            *(
                Series(whole.field, (*whole.labels, ("le", bound)), "bucket")
                for bound in (*bounds, "+Inf")
            ),
            Series(whole.field, whole.labels, "sum"),
            Series(whole.field, whole.labels, "count"),
        )

    def shape(
        self, group: str, items: Iterable[Series | tuple[str, Mapping[str, str] | Labels]]
    ) -> Shape:
        """
        Return the shape of these series in this order, for sources other than the bulk call.

        An item is a key of the group with its labels, or a series that `series` or `histogram`
        returned. Raises ValueError if the order splits a family or a series occurs twice.
        """
        series = tuple(
            item if isinstance(item, Series) else self.series(group, *item) for item in items
        )
        done: set[str] = set()
        family = ""
        for one in series:
            if one.field.family != family:
                done.add(family)
                family = one.field.family
                if family in done:
                    raise ValueError(f"the series of {family} are not neighbours")
        if len({(one.field.family, one.labels, one.part) for one in series}) < len(series):
            raise ValueError(f"a series of {group} occurs twice")
        return Shape(group, series)

    def table(
        self,
        form: Literal["text", "markdown"] = "text",
        word: str = "",
        wanted: Callable[[Field], bool] = lambda _: True,
    ) -> str:
        """
        Return every series that can appear, as aligned text or as a Markdown table.

        Those that `listed` returns; empty if there is none.
        """
        rows = [_row(line, self.groups[line.group]) for line in self.listed(word, wanted)]
        if not rows:
            return ""
        return markdown(_HEAD, rows) if form == "markdown" else plain(_HEAD, rows)

    def listed(
        self, word: str = "", wanted: Callable[[Field], bool] = lambda _: True
    ) -> list[Line]:
        """Return the lines with a word in their row or their group, and with a wanted field."""
        return [
            line
            for line in self.fields
            if line.field
            and wanted(line.field)
            and word.casefold()
            in " ".join((line.group, *_row(line, self.groups[line.group]))).casefold()
        ]


@cache
def shipped() -> Catalog:
    """Return the package's own catalog, read once per process, since it never changes."""
    return load()


def load(extra: Path | None = None) -> Catalog:
    """
    Read the package's catalog, and the files or the file in `extra` that add lines to it.

    Raises ConfigError with every fault of every file at once, each with its file and its key.
    """
    reader = CatalogReader()
    files = [
        (file.name, file.read_text(encoding="utf-8"))
        for file in resources.files(__name__).iterdir()
        if file.name.endswith(".toml")
    ]
    added: list[tuple[str, str]] = []
    for file in sorted(extra.glob("*.toml")) if extra and extra.is_dir() else [extra]:
        try:
            added += [(str(file), file.read_text(encoding="utf-8"))] if file else []
        except (OSError, UnicodeDecodeError) as error:
            reader.faults.append(f"{file}: {getattr(error, 'strerror', None) or error}")
    for name, text in files:
        if name == "enums.toml":
            reader.read_enums(name, text)
    for name, text in (*sorted(files), *added):
        if name != "enums.toml":
            reader.read(name, text)
    reader.check_patterns()
    if reader.faults:
        raise ConfigError(reader.faults)
    return Catalog(reader.groups, reader.lines, reader.enums)


def _row(line: Line, group: Group) -> tuple[str, ...]:
    assert line.field  # noqa: S101 - a row is a series
    suffix = "_total" if line.field.kind is Kind.COUNTER else ""
    return (
        f"{line.field.family}{suffix}",
        line.field.kind.value,
        line.field.unit,
        f"{line.group}.{line.key}" if group.bit else "",
        line.since,
        line.field.help,
    )
