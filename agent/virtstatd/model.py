"""
The nouns that flow from the sources to the sinks: frozen, shared, never copied, no I/O.

A guest's keys and strings rarely change between polls; its numbers always do. So everything that
stays the same is compiled once into a `Shape`, and a poll moves only a tuple of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache


class Kind(StrEnum):
    """What a field's numbers mean, in Prometheus' and OpenTelemetry's sense."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Field:
    """
    One line of the catalog: what a statistic is called, counts and means.

    A reading's number is given in `unit` after multiplying with `10 ** exponent`: nanoseconds
    arrive as `unit="seconds", exponent=-9`. Numbers are never divided on the way, so nothing is
    rounded before the sink's own format does it.
    """

    prefix: str
    name: str
    kind: Kind
    unit: str
    help: str
    exponent: int = 0

    def __hash__(self) -> int:
        """Return the hash of its names, which is enough and cheaper."""
        return hash((self.prefix, self.name))

    @property
    def family(self) -> str:
        """The name with its unit, without `_total`: `libvirt_domain_block_stats_read_bytes`."""
        return _family(self.prefix, self.name, self.unit)


@lru_cache(4096)
def _family(prefix: str, name: str, unit: str) -> str:
    name = f"{prefix}_{name}"
    if unit and not name.endswith(f"_{unit}"):
        name = f"{name}_{unit}"
    return name


Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """
    A field of one device of one domain.

    `labels` name the device (`target_device`, `vcpu`); the domain's own labels are on the `Domain`.
    `part` is empty except for histograms, whose numbers are one series each: "bucket" (cumulative,
    its upper bound in the last label, `le`), "sum" and "count". All parts of one histogram are
    neighbours in the shape, buckets first, in rising order, `+Inf` last.
    """

    field: Field
    labels: Labels = ()
    part: str = ""

    @property
    def exponent(self) -> int:
        """The exponent of its numbers: the field's, but 0 for a histogram's buckets and count."""
        return self.field.exponent if self.part in ("", "sum") else 0

    @property
    def base_labels(self) -> Labels:
        """The labels without a bucket's `le`: equal for all parts of one histogram."""
        return self.labels[:-1] if self.part == "bucket" else self.labels


@lru_cache(8192)
def shared_series(field: Field, labels: Labels = (), part: str = "") -> Series:
    """Return a series; equal ones of different guests are one object, which saves memory."""
    return Series(field, labels, part)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Shape:
    """
    The ordered series that one group of a record holds, compiled once and compared by identity.

    Within a shape the series of one family are neighbours and no series occurs twice. Encoders
    compile once per shape and keep the result beside it, in a `WeakKeyDictionary`.
    """

    group: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """
    One incarnation of a libvirt guest.

    `id` is the hypervisor's number of this run; it changes at every start, and the counters begin
    at zero with it. It is negative for a guest that does not run. `labels` go on every series of
    the domain: `(("domain", name),)` and what the configuration adds.
    """

    uuid: str
    name: str
    id: int
    labels: Labels


Number = int | float


@dataclass(frozen=True, slots=True)
class Reading:
    """
    One group's values at one time, one number per series of the shape, in its order.

    `domain` is None for what belongs to the host or to the agent itself.
    """

    domain: Domain | None
    shape: Shape
    values: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """
    What one call brought: readings that share one time, taken before the call was made.

    `taken_at` is Unix time in nanoseconds. `groups` were polled; a group that was polled for a
    domain in the batch and is not among its readings does not exist for that domain now.
    `lifetime_seconds` is how long the readings may be shown as current (two intervals of their
    tier). `gone` are the incarnations that ended since the last batch. `piece` is not empty where
    this is a part of a batch that had to be cut: what it lacks is in the other parts, not gone.
    What follows its "/" distinguishes parts of one reading.
    """

    source: str
    taken_at: int
    readings: tuple[Reading, ...]
    groups: frozenset[str] = frozenset()
    lifetime_seconds: float = 60.0
    gone: tuple[Domain, ...] = ()
    piece: str = ""
    samples: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", sum(len(r.values) for r in self.readings))

    @property
    def bytes(self) -> int:
        """An estimate of the memory that waiting in a buffer costs: numbers, tuples, objects."""
        return 200 + 40 * self.samples + 160 * len(self.readings)


@dataclass(frozen=True, slots=True)
class Happening:
    """
    Something that libvirt's events say of a guest: its kind, its detail, the device, and the rest.

    It came `count` times, and last at `at`, Unix time in nanoseconds.
    """

    domain: Domain
    event: str
    detail: str
    device: str
    more: str
    count: int
    at: int
