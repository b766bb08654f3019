"""Reads the catalog's files and reports all of their errors at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from typing import Literal, TypeVar

import msgspec

from virtstatd.catalog.lines import EnumNames, Group, Line, Role
from virtstatd.model import Field, Kind


UNITS = frozenset(
    {
        "batches",
        "bytes",
        "bytes_per_second",
        "drops",
        "errors",
        "joules",
        "packets",
        "requests",
        "requests_per_second",
        "samples",
        "seconds",
    }
)

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_SENTENCE = re.compile(r"[^.]+(\.(?! )[^.]+)*\.")
# The domain's own labels, and those that decoding adds: no other label may have their names.
_RESERVED = frozenset({"domain", "index", "le"})

_ROLES = {
    "counter": Role.NUMBER,
    "gauge": Role.NUMBER,
    "unknown": Role.NUMBER,
    "info": Role.TEXT,
    "histogram": Role.BIN,
    "label": Role.NAME,
    "start": Role.START,
    "size": Role.SIZE,
}


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    group: str
    fields: dict[str, object]
    prefix: str | None = None
    bit: int = 0
    since: str = ""
    monitor: bool = False
    option: str = ""
    tier: Literal["", "pulse", "monitor", "extra"] = ""


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["counter", "gauge", "unknown", "info", "histogram", "label", "start", "size"]
    name: str = ""
    unit: str = ""
    help: str = ""
    prefix: str = ""
    since: str = ""
    label: str = ""
    labels: list[str] = []
    enum: str = ""
    by: str = ""
    factor: int = 1
    exponent: int = 0
    signed: bool = False
    slow: bool = False


class CatalogReader:
    """Reads files one after another and collects their errors in `faults`."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.lines: dict[tuple[str, str], list[Line]] = {}
        self.enums: dict[str, EnumNames] = {}
        self.faults: list[str] = []
        self._families: dict[str, tuple[Field, str]] = {}

    def read_enums(self, file: str, text: str) -> None:
        """Read the names of libvirt's numbers; every number of one enumeration has the same."""
        tables = self._converted(file, text, dict[str, dict[str, dict[str, str]]]) or {}
        for name, names in tables.items():
            labels = {tuple(entry) for entry in names.values()}
            if len(labels) != 1:
                self.faults.append(f"{file}: {name}: its entries differ in their labels")
            self.enums[name] = names

    def read(self, file: str, text: str) -> None:
        """Read one group's file; a group that is known already only gains lines."""
        header = self._converted(file, text, _Header)
        if header is None:
            return
        known = self.groups.get(header.group)
        if known is None:
            if header.prefix is None:
                self.faults.append(f"{file}: prefix: a new group needs one")
                return
            known = Group(
                header.group,
                header.bit,
                header.since,
                header.monitor,
                header.prefix,
                (header.option or header.group) if header.bit else "",
                header.tier,
            )
            self.groups[header.group] = known
        for key, value in header.fields.items():
            if (known.name, key) in self.lines:
                self.faults.append(f'{file}: "{key}": the group has this key already')
                continue
            entries = value if isinstance(value, list) else [value]
            lines = [self._line(known, key, entry, f'{file}: "{key}"') for entry in entries]
            if len(lines) > 1 and any(line and line.role is not Role.NUMBER for line in lines):
                self.faults.append(f'{file}: "{key}": only a number can have several names')
            self.lines[known.name, key] = [line for line in lines if line]

    def check_patterns(self) -> None:
        """Check what depends on all files together."""
        placeholders: dict[tuple[str, ...], str] = {}
        for (group, key), lines in self.lines.items():
            tokens = (group, *key.split("."))
            for at, token in enumerate(tokens):
                if _PLACEHOLDER.fullmatch(token):
                    # `{a}.x` and `{b}.y` would give one device two labels.
                    first = placeholders.setdefault(tokens[:at], token)
                    if first != token:
                        self.faults.append(
                            f'{group}.toml: "{key}": {token} is {first} in another key'
                        )
            for line in lines:
                if line.by and (group, line.by) not in self.lines:
                    self.faults.append(f'{group}.toml: "{key}": by: no key "{line.by}"')

    def _converted(self, file: str, text: str, shape: type[T]) -> T | None:
        try:
            return msgspec.convert(tomllib.loads(text), shape)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            self.faults.append(f"{file}: {error}")
            return None

    def _line(self, group: Group, key: str, value: object, where: str) -> Line | None:
        try:
            entry = msgspec.convert(value, _Entry)
        except msgspec.ValidationError as error:
            self.faults.append(f"{where}: {error}")
            return None
        role = _ROLES[entry.kind]
        field = None
        if role in {Role.NUMBER, Role.TEXT, Role.BIN}:
            field = Field(
                prefix=entry.prefix or group.prefix,
                name=entry.name,
                kind=Kind(entry.kind),
                unit=entry.unit,
                help=entry.help,
                exponent=entry.exponent,
            )
        placeholders = tuple(
            (found[1], at)
            for at, token in enumerate(key.split("."))
            if (found := _PLACEHOLDER.fullmatch(token))
        )
        names = [name for name, _ in placeholders]
        if role is Role.BIN and names:
            names.pop()  # the bin itself is not a label, its upper bound is
        if role is Role.TEXT and entry.label:
            names.append(entry.label)
        names += [*next(iter(self.enums.get(entry.enum, {}).values()), ()), *entry.labels]
        line = Line(
            group=group.name,
            key=key,
            role=role,
            field=field,
            since=entry.since or group.since,
            labels=tuple(names),
            placeholders=placeholders,
            label=entry.label,
            enum=entry.enum,
            by=entry.by,
            factor=entry.factor,
            exponent=entry.exponent,
            signed=entry.signed,
            slow=entry.slow,
        )
        faults = [
            *self._line_faults(line, entry),
            *(self._key_faults(line, entry) if group.bit else ()),
            *(self._field_faults(field, where) if field else ()),
        ]
        self.faults += [f"{where}: {fault}" for fault in faults]
        return None if faults else line

    def _line_faults(self, line: Line, entry: _Entry) -> Iterable[str]:
        for name in line.labels:
            if not _NAME.fullmatch(name) or name in _RESERVED:
                yield f"{name!r} cannot be a label"
        if len(set(line.labels)) < len(line.labels):
            yield "a label occurs twice"
        if line.role is Role.NAME and line.label not in dict(line.placeholders):
            yield "label: must be one of the key's placeholders"
        if line.enum and line.enum not in self.enums:
            yield f"enum: no {line.enum!r} in enums.toml"
        if line.factor < 1:
            yield f"factor: must be at least 1, is {line.factor}"
        if line.field is None and (entry.name or entry.unit or entry.help or entry.labels):
            yield f"a {entry.kind} has no name, unit, help or labels"

    def _key_faults(self, line: Line, entry: _Entry) -> Iterable[str]:
        """Check what matters only for lines that decoding uses."""
        for token in line.tokens:
            if not token or (set(token) & set("{}") and not _PLACEHOLDER.fullmatch(token)):
                yield f"{token!r} is neither a token of a key nor a placeholder"
        if line.role in {Role.BIN, Role.START} and not line.placeholders:
            yield f"a {entry.kind} needs a placeholder for the bin"
        if line.role is Role.TEXT and not line.label:
            yield "label: an info needs one for its string"
        if entry.labels:
            yield "labels: here they come from the key"

    def _field_faults(self, field: Field, where: str) -> Iterable[str]:
        family = field.family
        if not _NAME.fullmatch(field.name) or not _NAME.fullmatch(family):
            yield f"name: {family!r} cannot be a metric"
        if field.unit and field.unit not in UNITS:
            yield f"unit: {field.unit!r} is not one of {', '.join(sorted(UNITS))}"
        if not _SENTENCE.fullmatch(field.help):
            yield "help: must be one sentence with a full stop"
        if family.endswith(("_total", "_count", "_sum", "_bucket", "_created")):
            yield f"name: {family!r} ends as only a text format may let it"
        if (field.kind is Kind.INFO) != family.endswith("_info"):
            yield "name: those of info, and only those, end in _info"
        # OpenMetrics names an info's family without its suffix, and no family may occur twice.
        base = family.removesuffix("_info") if field.kind is Kind.INFO else family
        first, there = self._families.setdefault(base, (field, where))
        if first != field:
            yield f"name: {base!r} is another kind, unit, help or exponent in {there}"
