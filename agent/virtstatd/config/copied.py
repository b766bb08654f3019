"""The labels that sinks copy from info series, and whether series can have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from virtstatd.catalog import shipped
from virtstatd.config.options import Fault, nearest, shown
from virtstatd.config.plugged import SinkConfig
from virtstatd.model import Kind


_DEVICES = frozenset({"target_device", "vcpu", "iothread", "index", "mac_address"})
_OPTIONS = ("tags", "external_labels")
"""Options of sinks that put labels on every series."""


def copied_faults(
    sinks: Iterable[SinkConfig], own: Iterable[str], *, anything: bool
) -> Iterator[Fault]:
    """
    Yield what cannot be copied, and what series would have twice.

    `own` are the labels of the table `[metadata]`; `anything` says that other packages' collectors
    may have info series with any label.
    """
    extra = set(own)
    known: frozenset[str] | None = None
    for sink in sinks:
        given = {name: option for option in _OPTIONS for name in getattr(sink.sink, option, ())}
        for name in sorted(extra & given.keys()):
            text = f"{shown(name)} is a label of the table [metadata]; choose another name"
            yield Fault(("sink", sink.index, given[name]), text)
        for at, name in enumerate(sink.route.labels):
            if known is None:
                known = _of_guests() | extra
            if name in given and name not in extra:
                text = f"{shown(name)} is in {given[name]} already; remove it from one of them"
            elif name not in known and not anything:
                similar = nearest(name, sorted(known))
                text = f"no info series of a guest has a label {shown(name)}{similar}"
            else:
                continue
            yield Fault(("sink", sink.index, "labels", at), text)


def _of_guests() -> frozenset[str]:
    """Return the labels of all info series of which a guest has one."""
    return frozenset(
        name
        for line in shipped().fields
        if line.field and line.field.kind is Kind.INFO and _DEVICES.isdisjoint(line.labels)
        for name in line.labels
    )
