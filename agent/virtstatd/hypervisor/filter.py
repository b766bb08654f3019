"""Which guests are monitored: rules by name, UUID, partition and the labels of their metadata."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Final

from msgspec import Meta, Struct

from virtstatd.model import Kind, Reading


NAME_MAX: Final = 255
"""Characters of a name that a regular expression sees; longer names are no files of QEMU's."""

REPEATS_MAX: Final = 3
"""With so many repeats a name of that length takes milliseconds at the worst, once per start."""

PATTERN_MAX: Final = 200

_HARMLESS: Final = re.compile(r"\\[^0-9]|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
"""An escaped character or a set of characters, which repeat nothing themselves."""

Glob = Annotated[str, Meta(max_length=256)]
GlobList = tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...]


class GuestRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A guest matches if all that a rule names are so; `regex` was looked at before."""

    name: Annotated[Glob, Meta(description="Name, with * and ? as in a shell.")] = ""
    uuid: Annotated[Glob, Meta(description="UUID, with * and ? as in a shell.")] = ""
    regex: Annotated[str, Meta(description="Regular expression for the whole name.")] = ""
    partition: Annotated[Glob, Meta(description="Resource partition, such as /prod*.")] = ""
    labels: Annotated[
        dict[str, Glob],
        Meta(description='Labels of its info series, such as { project_name = "shop-*" }.'),
    ] = {}

    def matches(self, name: str, uuid: str, facts: Mapping[str, str] | None) -> bool | None:
        """Return whether a guest matches; None if that depends on its description."""
        if self.name and not fnmatchcase(name, self.name):
            return False
        if self.uuid and not fnmatchcase(uuid, self.uuid.lower()):
            return False
        if self.regex and not re.compile(self.regex).fullmatch(name[:NAME_MAX]):
            return False
        wanted = {**self.labels, **({"partition": self.partition} if self.partition else {})}
        if wanted and facts is None:
            return None
        known = facts or {}
        return all(
            label in known and fnmatchcase(known[label], glob) for label, glob in wanted.items()
        )


class FilterOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is monitored. A guest that is left out costs no calls and appears only in a count."""

    include: Annotated[
        tuple[GuestRule, ...],
        Meta(
            description='Guests that are monitored, as { name = "prod-*" }; empty is all. A rule'
            " has name, uuid, regex, partition or labels, all of which must match."
        ),
    ] = ()
    exclude: Annotated[
        tuple[GuestRule, ...],
        Meta(
            description="Guests that are left out, by rules of the same form, even if `include`"
            " has them."
        ),
    ] = ()
    include_disks: Annotated[
        GlobList, Meta(description="Disks that are reported, by target, such as vd*; empty is all.")
    ] = ()
    exclude_disks: Annotated[
        GlobList,
        Meta(description="Disks that are left out, by target, even if `include_disks` has them."),
    ] = ()
    include_nics: Annotated[
        GlobList, Meta(description="Interfaces that are reported, by target; empty is all.")
    ] = ()
    exclude_nics: Annotated[
        GlobList,
        Meta(
            description="Interfaces that are left out, by target, even if `include_nics` has them."
        ),
    ] = ()
    include_fields: Annotated[
        GlobList,
        Meta(description="Metrics that are reported, by name as on the page; empty is all."),
    ] = ()
    exclude_fields: Annotated[
        GlobList,
        Meta(
            description="Metrics that are left out, by name, even if `include_fields` has them."
            " The agent's own are kept."
        ),
    ] = ()


class GuestFilter:
    """
    Decides which guests are monitored.

    A guest whose description cannot be read has no partition and no labels.
    """

    def __init__(self, options: FilterOptions | None = None) -> None:
        self._options = options or FilterOptions()

    @property
    def everything(self) -> bool:
        """Whether no guest is ever left out."""
        return not self._options.include and not self._options.exclude

    def admits(self, name: str, uuid: str, facts: Mapping[str, str] | None = None) -> bool | None:
        """Return whether a guest is monitored; None if that depends on its description."""
        include, exclude = self._options.include, self._options.exclude
        left_out = _any(rule.matches(name, uuid, facts) for rule in exclude)
        wanted = _any(rule.matches(name, uuid, facts) for rule in include) if include else True
        if left_out is True or wanted is False:
            return False
        return None if left_out is None or wanted is None else True


def facts_of(described: Sequence[Reading]) -> dict[str, str]:
    """Return the labels of a guest's own info series, without those of its devices."""
    return {
        name: value
        for reading in described
        for series in reading.shape.series
        if series.field.kind is Kind.INFO and series.field.prefix == "libvirt_domain"
        for name, value in series.labels
    }


def bounded_regex(text: str) -> re.Pattern[str]:
    """
    Return a regular expression that no name can make slow.

    Raises ValueError for what could take exponential time: a repeated group, a reference to a
    group, more than three repeats.
    """
    if len(text) > PATTERN_MAX:
        raise ValueError(f"must have at most {PATTERN_MAX} characters, has {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what may come to mean something else
            pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise ValueError(f"is no regular expression: {error}") from None
    bare = _HARMLESS.sub("x", text)
    if re.search(r"\)[*+{]", bare):
        raise ValueError("must not repeat a group: some names would take for ages")
    if re.search(r"\\[0-9]|\(\?(?!:)", bare):
        raise ValueError("must have no groups but (...) and (?:...), and no references to them")
    if len(re.findall(r"[*+{]", bare)) > REPEATS_MAX:
        raise ValueError(f"must have at most {REPEATS_MAX} of *, + and {{}}")
    return pattern


def _any(answers: Iterable[bool | None]) -> bool | None:
    found = list(answers)
    if True in found:
        return True
    return None if None in found else False
