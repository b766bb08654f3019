"""Names that a configuration may not give away: series have them already."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from virtstatd.catalog import shipped
from virtstatd.formats.naming import label_name


def check_names(option: str, names: Collection[str], also: Collection[str] = ()) -> None:
    """
    Raise ValueError for a tag or label that a series could have twice.

    `also` are names that the destination keeps for itself, or that other options set.
    """
    if not names:
        return  # the catalog need not be read
    ours = _of_series() | {*also}
    seen: dict[str, str] = {}
    for name in names:
        written = label_name(name)
        if not written or written[0].isdigit():
            raise ValueError(f"{option}: {name!r} is no name")
        if written in ours:
            raise ValueError(f"{option}: {name!r} is what series have already; choose another name")
        if written in seen:
            raise ValueError(f"{option}: {seen[written]!r} and {name!r} become the same name")
        seen[written] = name


@cache
def _of_series() -> frozenset[str]:
    """Return the labels of all series that the catalog knows."""
    found = {label_name(name) for line in shipped().fields for name in line.labels}
    return frozenset(found | {"domain", "uuid", "le"})
