"""
What a class of options accepts, and every error of a table that was written for it.

The class is a dataclass or a `msgspec.Struct`; its annotated fields are the options, described and
bounded by `Annotated[..., msgspec.Meta(description=..., ge=...)]`; beside a `pattern`, `title`
describes it in words. msgspec stops at the first error, so each value is checked separately here,
and the messages name options instead of types.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Iterator
from inspect import get_annotations
from types import NoneType, UnionType
from typing import Annotated, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from virtstatd.config.toml_lines import Path


MAX_SHOWN = 60

_BARE = re.compile(r"[A-Za-z0-9_-]+")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One error: its place in the document, and a clause that follows a colon."""

    path: Path
    text: str

    def __str__(self) -> str:
        place = ""
        for name in self.path:
            if isinstance(name, int):
                place += f"[{name}]"
            else:
                place += f".{name}" if _BARE.fullmatch(name) else f".{name!r}"
        return f"{place[1:]}: {self.text}"


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One field of a class of options; `default` is `msgspec.NODEFAULT` when it must be given."""

    name: str
    hint: object  # as Python's typing functions return it
    kind: inspect.Type
    default: object
    description: str

    @property
    def required(self) -> bool:
        """Whether a table without this option is a fault."""
        return self.default is msgspec.NODEFAULT


def options(cls: type) -> tuple[Option, ...]:
    """Return the options of a dataclass or Struct, its own first, then those that it inherits."""
    info = inspect.type_info(cls)
    if not isinstance(info, inspect.StructType | inspect.DataclassType):
        raise TypeError(f"{cls.__name__} is neither a dataclass nor a msgspec.Struct")
    hidden: set[str] = set()
    if dataclasses.is_dataclass(cls):
        hidden = {field.name for field in dataclasses.fields(cls) if not field.init}
    hints = get_type_hints(cls, include_extras=True)
    found = [_option(field, hints[field.name]) for field in info.fields if field.name not in hidden]
    places = [get_annotations(each) for each in cls.__mro__]
    found.sort(key=lambda option: [option.name in own for own in places].index(True))
    return tuple(found)


def faults_of_table(
    known: Iterable[Option], table: dict[str, object], path: Path
) -> Iterator[Fault]:
    """Yield the errors of a table that may hold only the known options."""
    by_name = {option.name: option for option in known}
    for name, value in table.items():
        if option := by_name.get(name):
            yield from faults_of_value(option.hint, value, (*path, name))
        else:
            yield unknown(name, value, by_name, path)
    for option in by_name.values():
        if option.required and option.name not in table:
            yield Fault((*path, option.name), "is missing and has no default")


def unknown(name: str, value: object, known: Iterable[str], path: Path) -> Fault:
    """Return the error for an unknown name in a table."""
    arrays = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    what = "table" if isinstance(value, dict) or arrays else "option"
    return Fault((*path, name), f"unknown {what}{nearest(name, known)}")


def faults_of_value(hint: object, value: object, path: Path) -> Iterator[Fault]:
    """Yield the errors of one value, down to the elements of arrays and tables."""
    hint = present(hint)
    info = inspect.type_info(hint)
    kind = _bare(info)
    within: list[Fault] = []
    if isinstance(kind, inspect.StructType | inspect.DataclassType) and isinstance(value, dict):
        within += faults_of_table(options(kind.cls), value, path)
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType) and isinstance(value, list):
        element = get_args(_without_extras(hint))[0]
        for index, member in enumerate(value):
            within += faults_of_value(element, member, (*path, index))
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        element = get_args(_without_extras(hint))[1]
        for name, member in value.items():
            within += faults_of_value(element, member, (*path, name))
    yield from within
    if within:
        return
    if isinstance(value, float) and not math.isfinite(value):  # passes every lower bound
        yield Fault(path, f"must be finite, is {value}")
        return
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        yield Fault(path, _reason(kind, value, _said(info, "title")) or str(error))


def build(cls: type[T], table: dict[str, object]) -> T:
    """Construct a class of options from a table without faults."""
    hints = {option.name: option.hint for option in options(cls)}
    return cls(**{name: msgspec.convert(value, hints[name]) for name, value in table.items()})


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean ...?` or, without a similar name, the known names."""
    names = list(known)
    plain = word.casefold().replace("-", "_").replace(" ", "_")
    near = [plain] if plain in names else difflib.get_close_matches(plain, names, n=1)
    if near:
        return f", did you mean {near[0]}?"
    return f", known: {', '.join(names)}" if names else ""


def shown(value: object) -> str:
    """Render a value for a message: quoted, escaped, and short."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def noun(kind: inspect.Type) -> str:
    """Name a type as the author of a TOML file knows it."""
    match kind:
        case inspect.Metadata():
            return noun(kind.type)
        case inspect.LiteralType() | inspect.EnumType():
            return f"one of {', '.join(choices(kind))}"
        case inspect.UnionType():
            members = (each for each in kind.types if not isinstance(each, inspect.NoneType))
            return " or ".join(noun(each) for each in members)
        case _:
            return _NOUNS.get(type(kind), type(kind).__name__)


def choices(kind: inspect.LiteralType | inspect.EnumType) -> list[str]:
    """Return the values that an enumeration has."""
    if isinstance(kind, inspect.LiteralType):
        return [str(value) for value in kind.values]
    return [str(member.value) for member in kind.cls]


_NOUNS: dict[type, str] = {
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "a string",
    inspect.ListType: "an array",
    inspect.VarTupleType: "an array",
    inspect.DictType: "a table",
    inspect.StructType: "a table",
    inspect.DataclassType: "a table",
    str: "a string",
    list: "an array",
    dict: "a table",
}


def _reason(kind: inspect.Type, value: object, form: str) -> str:  # noqa: PLR0911 - a table of cases
    """Return why msgspec refused a value, empty if only msgspec knows."""
    match kind:
        case inspect.LiteralType() | inspect.EnumType() if isinstance(value, str):
            return f"unknown value {shown(value)}{nearest(value, choices(kind))}"
        case inspect.IntType() if type(value) is int:
            return _bound(kind, value)
        case inspect.FloatType() if type(value) in (int, float):
            return _bound(kind, value)
        case inspect.StrType() if isinstance(value, str):
            reason = _length(kind, len(value), "characters")
            return reason or f"must be {form or f'of the form {kind.pattern}'}, is {shown(value)}"
        case inspect.ListType() | inspect.VarTupleType() if isinstance(value, list):
            return _length(kind, len(value), "elements")
        case inspect.StructType() | inspect.DataclassType() | inspect.DictType() if isinstance(
            value, dict
        ):
            return ""
        case _ if isinstance(value, str | list | dict):  # not shown, it may be a secret
            return f"must be {noun(kind)}, is {_NOUNS[type(value)]}"
        case _:
            return f"must be {noun(kind)}, is {str(value).lower()}"


def _bound(kind: inspect.IntType | inspect.FloatType, value: object) -> str:
    number = cast("float", value)
    if kind.ge is not None and number < kind.ge:
        return f"must be at least {kind.ge}, is {shown(value)}"
    if kind.gt is not None and number <= kind.gt:
        return f"must be more than {kind.gt}, is {shown(value)}"
    if kind.le is not None and number > kind.le:
        return f"must be at most {kind.le}, is {shown(value)}"
    if kind.lt is not None and number >= kind.lt:
        return f"must be less than {kind.lt}, is {shown(value)}"
    return ""


def _length(
    kind: inspect.StrType | inspect.ListType | inspect.VarTupleType, length: int, unit: str
) -> str:
    if kind.min_length is not None and length < kind.min_length:
        if kind.min_length == 1:
            return "must not be empty"
        return f"must have at least {kind.min_length} {unit}, has {length}"
    if kind.max_length is not None and length > kind.max_length:
        return f"must have at most {kind.max_length} {unit}, has {length}"
    return ""


def _option(field: inspect.Field, hint: object) -> Option:
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    description = _said(field.type, "description")
    return Option(field.name, hint, _bare(field.type), default, description)


def _said(kind: inspect.Type, key: str) -> str:
    """Return the `title` or `description` of a `msgspec.Meta`."""
    if not isinstance(kind, inspect.Metadata):
        return ""
    return str((kind.extra_json_schema or {}).get(key, ""))


def _bare(kind: inspect.Type) -> inspect.Type:
    return _bare(kind.type) if isinstance(kind, inspect.Metadata) else kind


def present(hint: object) -> object:
    """Take `| None` away: TOML has no word for it."""
    plain = _without_extras(hint)
    if isinstance(plain, UnionType) or get_origin(plain) is Union:
        members = [each for each in get_args(plain) if each is not NoneType]
        return members[0] if len(members) == 1 else hint
    return hint


def _without_extras(hint: object) -> object:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint
