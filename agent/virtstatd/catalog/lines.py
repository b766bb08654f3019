"""
The content of a file of the catalog: a group and its lines.

A file describes one group: a header, then one line per key under `[fields]`. A key is written
relative to its group, and `{label}` stands for one token of it: `"{vcpu}.time"` under
`group = "vcpu"` is libvirt's `vcpu.0.time`. Literal keys take precedence over placeholders.

The content of a line, by its `kind`:

- `counter`, `gauge`, `unknown`: a number. `name`, `unit` and `help` are the metric's; `prefix`
  replaces the group's. The number is multiplied by `factor` while decoding, by `10 ** exponent`
  in the sinks. `enum` names it in labels, out of enums.toml, where the names may depend on the
  number of another key, `by`. Libvirt's number may be negative only where the line is `signed`. A
  list of such lines gives one number several names. A `slow` one may be polled less often where the
  kernel has the rest of its group.
- `info`: a string, which becomes the label `label` of a series with the value 1.
- `label`: the value, instead of the key's index, is the label `label` of the device's series.
- `histogram`, `start`, `size`: the count of a bin, its lower bound in units of `10 ** exponent`,
  and the number of bins.

A header has the group's `bit` in libvirt's flags, `monitor` where libvirt must ask the guest's
monitor for it, the `tier` that polls it by default, and `option`, its name in the configuration
where that is not the group's own. A group that is not libvirt's has no `bit`; its keys are names
and its lines list their `labels`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from virtstatd.model import Field


class Role(Enum):
    """What decoding does with the value under a key."""

    NUMBER = auto()  # moves at every poll
    TEXT = auto()  # a string: becomes a label of an info series
    NAME = auto()  # names the device; the key has only an index
    BIN = auto()  # the count of one bin of a histogram
    START = auto()  # where a bin of a histogram starts
    SIZE = auto()  # the number of bins, which follows from their keys too


@dataclass(frozen=True, slots=True)
class Group:
    """
    The header of a file.

    `bit` is the group's value among VIR_DOMAIN_STATS_*, 0 for a group that is not libvirt's.
    `monitor` says that libvirt must ask the guest's monitor, which can block. `option` is what the
    configuration and `virsh domstats` call it, `tier` the one that polls it by default.
    """

    name: str
    bit: int
    since: str
    monitor: bool
    prefix: str
    option: str = ""
    tier: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """
    One checked line: a key pattern and what becomes of its value.

    `labels` are the names of the series' labels in order: those of `placeholders` (each with its
    token's place in the pattern), then `label` for a string or the names of the enumeration.
    """

    group: str
    key: str
    role: Role
    field: Field | None
    since: str
    labels: tuple[str, ...] = ()
    placeholders: tuple[tuple[str, int], ...] = ()
    label: str = ""
    enum: str = ""
    by: str = ""
    factor: int = 1
    exponent: int = 0
    signed: bool = False
    slow: bool = False

    @property
    def tokens(self) -> tuple[str, ...]:
        """The pattern's tokens, placeholders in braces."""
        return tuple(self.key.split("."))


EnumNames = Mapping[str, Mapping[str, str]]  # a number's text to the labels that name it
