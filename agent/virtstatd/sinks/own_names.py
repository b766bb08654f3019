"""Labels that a configuration adds: their names are free and legal, and they have values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

from virtstatd.catalog import shipped
from virtstatd.formats.naming import label_name


HOSTS = frozenset({"host.name", "service.instance.id"})
"""Attributes of an OTLP resource that are the host's name unless they are given."""


def check_labels(
    option: str, labels: Mapping[str, str], also: Collection[str] = (), reserved: str = "__"
) -> None:
    """
    Raise ValueError for a tag or label that a series could have twice, or that is none.

    `also` are names that the destination keeps for itself, or that other options set; it keeps all
    that begin with `reserved` too.
    """
    if not labels:
        return  # the catalog need not be read
    check_values(option, labels)
    ours = _of_series() | {*also}
    seen: dict[str, str] = {}
    for name in labels:
        written = label_name(name)
        if not written or written[0].isdigit():
            raise ValueError(f"{option}: {name!r} is no name; begin it with a letter")
        if written.startswith(reserved):
            raise ValueError(
                f"{option}: {name!r} begins with {reserved}, which the destination keeps for"
                " itself; choose another name"
            )
        if written in ours:
            raise ValueError(f"{option}: {name!r} is what series have already; choose another name")
        if written in seen:
            raise ValueError(f"{option}: {seen[written]!r} and {name!r} become the same name")
        seen[written] = name


def check_values(option: str, labels: Mapping[str, str]) -> None:
    """Raise ValueError for a name or a value that is empty: receivers refuse both, or drop them."""
    for name, value in labels.items():
        if not name.strip():
            raise ValueError(f"{option}: {name!r} is no name; begin it with a letter")
        if not value.strip():
            raise ValueError(f"{option}: {name!r} has no value; give it one, or remove it")


def check_attributes(option: str, attributes: Mapping[str, str], host: str) -> None:
    """Raise ValueError for an attribute of an OTLP resource that is none, or that `host` sets."""
    check_values(option, attributes)
    if host and (twice := HOSTS & attributes.keys()):
        raise ValueError(f"{option}: {min(twice)!r} is what host says already; remove one of them")


@cache
def _of_series() -> frozenset[str]:
    """Return the labels of all series that the catalog knows."""
    found = {label_name(name) for line in shipped().fields for name in line.labels}
    return frozenset(found | {"domain", "uuid", "le"})
