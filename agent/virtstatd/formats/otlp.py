"""
OTLP metrics, encoded without an object per number.

What stays the same is encoded once per shape by the protocol buffers library: metrics, attributes,
bounds of histograms. What changes has a fixed length in this protocol, so that the data points of
a reading are one call of `struct`, and only then cut into metrics.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import truediv
from struct import Struct, pack
from weakref import WeakKeyDictionary

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    DataPointFlags,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from virtstatd.formats.lifetimes import EndedSeries
from virtstatd.formats.naming import family_name, visible
from virtstatd.formats.numbers import Divisors, divisor, varint
from virtstatd.model import Field, Kind, Labels, Number, Shape


UNITS = {
    "bytes": "By",
    "seconds": "s",
    "hertz": "Hz",
    "joules": "J",
    "watts": "W",
    "celsius": "Cel",
    "volts": "V",
    "amperes": "A",
    "percent": "%",
}
"""Units as UCUM spells them; all others go into braces, which are UCUM's annotations."""

# tags of fields: number << 3 | wire type, as metrics.proto numbers them
_GAUGE, _SUM, _HISTOGRAM = b"\x2a", b"\x3a", b"\x4a"
_POINT = b"\x0a"
_NUMBER_ATTRIBUTE, _HISTOGRAM_ATTRIBUTE = b"\x3a", b"\x4a"
_START, _TIME, _DOUBLE = b"\x11", b"\x19", b"\x21"
_COUNT, _TOTAL, _BUCKETS, _BOUNDS = b"\x21", b"\x29", b"\x32", b"\x3a"
_CUMULATIVE = b"\x10" + bytes([AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE])
_DELTA = b"\x10" + bytes([AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA])
_MONOTONIC = b"\x18\x01"
_GAUGE_BYTES = 2 * 9
_COUNTER_BYTES = 3 * 9


@dataclass(frozen=True, slots=True, eq=False)
class OtlpHead:
    """The bytes before and after the data points of a metric."""

    metric: bytes
    tag: bytes
    tail: bytes

    def around(self, points: bytes) -> bytes:
        """Return the metric as a member of its scope."""
        size = len(points) + len(self.tail)
        body = b"".join((self.metric, self.tag, varint(size), points, self.tail))
        return b"\x12" + varint(len(body)) + body


Points = tuple[OtlpHead, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """One histogram of a shape: the places of its values, its bounds and attributes."""

    head: OtlpHead
    attributes: bytes
    bounds: tuple[float, ...]
    buckets: tuple[int, ...]
    total: int | None
    divisor: int | Fraction

    def encode(self, domain: bytes, values: Sequence[Number], start: int, time: int) -> Points:
        """Return the data point; in OTLP a bucket does not count what smaller ones hold."""
        counts: list[int] = []
        below = 0
        for place in self.buckets:
            value = values[place]
            count = max(int(value), below) if math.isfinite(value) else below
            counts.append(count - below)
            below = count
        parts = [
            self.attributes,
            domain,
            pack("<cQcQcQ", _START, start, _TIME, time, _COUNT, below),
        ]
        if self.total is not None:
            parts.append(pack("<cd", _TOTAL, values[self.total] / self.divisor))
        parts += [_BUCKETS, varint(8 * len(counts)), pack(f"<{len(counts)}Q", *counts)]
        if self.bounds:
            bounds = pack(f"<{len(self.bounds)}d", *self.bounds)
            parts += [_BOUNDS, varint(len(bounds)), bounds]
        body = b"".join(parts)
        return self.head, _POINT + varint(len(body)) + body


@dataclass(frozen=True, slots=True, eq=False)
class OtlpTemplate:
    """The data points of a shape with holes for the domain's attributes, times and numbers."""

    layout: Struct
    arguments: tuple[bytes, ...]
    picked: tuple[int, ...] | None
    divisors: Divisors
    counters: tuple[bool, ...]
    cuts: tuple[tuple[OtlpHead, int, int], ...]
    distributions: tuple[Distribution, ...]

    def encode(
        self, domain: tuple[bytes, bytes], values: Sequence[Number], start: int, time: int
    ) -> list[Points]:
        """Return the data points of one reading, by metric."""
        points = [each.encode(domain[1], values, start, time) for each in self.distributions]
        if not self.cuts:
            return points
        if self.picked is not None:
            values = [values[index] for index in self.picked]
        gauge = pack("<cQc", _TIME, time, _DOUBLE)
        counter = pack("<cQ", _START, start) + gauge
        arguments: list[bytes | Number] = list(self.arguments)
        arguments[1::4] = [domain[0]] * len(self.counters)
        arguments[2::4] = [counter if each else gauge for each in self.counters]
        arguments[3::4] = map(truediv, values, self.divisors)
        packed = self.layout.pack(*arguments)
        points += [(head, packed[begin:end]) for head, begin, end in self.cuts]
        return points


class OtlpEncoder:
    """
    Encode readings, with templates for all shapes that are alive, and put them together.

    `attributes` are the resource's, `version` is the scope's. `delta` says that counters are growth
    since their start time.
    """

    def __init__(self, attributes: Labels, version: str, *, delta: bool = False) -> None:
        self._temporality = _DELTA if delta else _CUMULATIVE
        self._templates: WeakKeyDictionary[Shape, dict[int, OtlpTemplate]] = WeakKeyDictionary()
        self._heads: dict[Field, OtlpHead] = {}
        resource = Resource(attributes=[_attribute(*each) for each in attributes])
        scope = InstrumentationScope(name="virtstatd", version=version)
        self._resource = _member(b"\x0a", resource.SerializeToString())
        self._scope = _member(b"\x0a", scope.SerializeToString())

    def encode(
        self, shape: Shape, labels: Labels, values: Sequence[Number], start: int, time: int
    ) -> list[Points]:
        """Return the data points of a reading; times are in nanoseconds."""
        domain = _attributes(labels)
        templates = self._templates.get(shape)
        if templates is None:
            templates = self._templates[shape] = {}
        size = len(domain[0])
        template = templates.get(size)
        if template is None:
            template = templates[size] = self._compiled(shape, size)
        return template.encode(domain, values, start, time)

    def encode_ended(self, ended: EndedSeries) -> list[Points]:
        """Return a data point without a value for each series that ended."""
        time = ended.milliseconds * 1_000_000
        points: dict[tuple[Field, Labels], Points] = {}
        for series in ended.series:
            attributes = [_attribute(*each) for each in (*series.base_labels, *ended.labels)]
            point = (HistogramDataPoint if series.part else NumberDataPoint)(
                attributes=attributes,
                time_unix_nano=time,
                flags=DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK,
            )
            packed = _member(_POINT, point.SerializeToString())
            points[series.field, series.base_labels] = self._head(series.field), packed
        return list(points.values())

    def request(self, readings: Iterable[list[Points]]) -> bytes:
        """Return the request that holds all these data points, each metric once."""
        metrics: dict[OtlpHead, list[bytes]] = {}
        for reading in readings:
            for head, points in reading:
                metrics.setdefault(head, []).append(points)
        scope = [self._scope, *(head.around(b"".join(each)) for head, each in metrics.items())]
        return _member(b"\x0a", self._resource + _member(b"\x12", b"".join(scope)))

    def _compiled(self, shape: Shape, domain_bytes: int) -> OtlpTemplate:
        arguments: list[bytes] = []
        layout: list[str] = []
        picked: list[int] = []
        cuts: list[tuple[OtlpHead, int, int]] = []
        end = 0
        for index, series in enumerate(shape.series):
            if series.part:
                continue
            counter = series.field.kind is Kind.COUNTER
            own = b"".join(_member(_NUMBER_ATTRIBUTE, _pair(*each)) for each in series.labels)
            rest = _COUNTER_BYTES if counter else _GAUGE_BYTES
            point = _POINT + varint(len(own) + domain_bytes + rest) + own
            arguments += (point, b"", b"", b"")
            layout.append(f"{len(point)}s{domain_bytes}s{rest - 8}sd")
            head = self._head(series.field)
            begin, end = end, end + len(point) + domain_bytes + rest
            if cuts and cuts[-1][0] is head:
                begin = cuts.pop()[1]
            cuts.append((head, begin, end))
            picked.append(index)
        return OtlpTemplate(
            Struct(f"<{''.join(layout)}"),
            tuple(arguments),
            tuple(picked) if len(picked) < len(shape.series) else None,
            tuple(divisor(shape.series[index].exponent) for index in picked),
            tuple(shape.series[index].field.kind is Kind.COUNTER for index in picked),
            tuple(cuts),
            tuple(self._distributions(shape)),
        )

    def _distributions(self, shape: Shape) -> Iterable[Distribution]:
        found: dict[tuple[Field, Labels], dict[str, list[int]]] = {}
        for index, series in enumerate(shape.series):
            if series.part:
                parts = found.setdefault((series.field, series.base_labels), {})
                parts.setdefault(series.part, []).append(index)
        for (of, labels), parts in found.items():
            buckets = parts.get("bucket", [])
            bounds = [float(shape.series[each].labels[-1][1]) for each in buckets]
            if not bounds or bounds[-1] != float("inf"):
                buckets = buckets + parts.get("count", [])
            own = b"".join(_member(_HISTOGRAM_ATTRIBUTE, _pair(*each)) for each in labels)
            finite = tuple(each for each in bounds if each != float("inf"))[: len(buckets) - 1]
            total = parts["sum"][0] if "sum" in parts else None
            yield Distribution(
                self._head(of), own, finite, tuple(buckets), total, divisor(of.exponent)
            )

    def _head(self, of: Field) -> OtlpHead:
        head = self._heads.get(of)
        if head is None:
            head = self._heads[of] = _head(of, self._temporality)
        return head


def _head(of: Field, temporality: bytes) -> OtlpHead:
    name = family_name(of) + ("_info" if of.kind is Kind.INFO else "")
    unit = UNITS.get(of.unit, f"{{{of.unit}}}" if of.unit else "")
    metric = Metric(name=name, description=visible(of.help), unit=unit).SerializeToString()
    match of.kind:
        case Kind.COUNTER:
            return OtlpHead(metric, _SUM, temporality + _MONOTONIC)
        case Kind.HISTOGRAM:
            return OtlpHead(metric, _HISTOGRAM, temporality)
        case _:
            return OtlpHead(metric, _GAUGE, b"")


@functools.lru_cache(maxsize=4096)
def _attributes(labels: Labels) -> tuple[bytes, bytes]:
    """Return a domain's labels as attributes of a number, and of a histogram."""
    pairs = [_pair(*each) for each in labels]
    return (
        b"".join(_member(_NUMBER_ATTRIBUTE, each) for each in pairs),
        b"".join(_member(_HISTOGRAM_ATTRIBUTE, each) for each in pairs),
    )


def _pair(name: str, value: str) -> bytes:
    encoded: bytes = _attribute(name, value).SerializeToString()
    return encoded


def _attribute(name: str, value: str) -> KeyValue:
    return KeyValue(key=visible(name), value=AnyValue(string_value=visible(value)))


def _member(tag: bytes, body: bytes) -> bytes:
    return tag + varint(len(body)) + body
