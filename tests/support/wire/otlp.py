"""OTLP as a receiver must have it, by the rules and not by the encoder."""

import itertools
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric

from virtstatd.model import Batch, Kind


CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE

Key = tuple[str, frozenset[tuple[str, str]]]
Point = tuple[Any, ...]


def points(requests: list[ExportMetricsServiceRequest]) -> dict[Key, Point]:
    """Return every data point by its metric and attributes; none may occur twice."""
    found: dict[Key, Point] = {}
    for key, point in every_point(requests):
        assert key not in found
        found[key] = point
    return found


def every_point(requests: list[ExportMetricsServiceRequest]) -> Iterator[tuple[Key, Point]]:
    """Yield the data points; a series may have several, of different times."""
    for request in requests:
        (of_resource,) = request.resource_metrics
        (scope,) = of_resource.scope_metrics
        assert scope.scope.name == "virtstatd"
        names = [metric.name for metric in scope.metrics]
        assert len(names) == len(set(names))
        for metric in scope.metrics:
            for attributes, point in _points(metric):
                pairs = frozenset((each.key, each.value.string_value) for each in attributes)
                yield (metric.name, pairs), point


def _points(metric: Metric) -> Iterator[tuple[Iterable[Any], Point]]:
    kind = metric.WhichOneof("data")
    assert kind
    data = getattr(metric, kind)
    if kind != "gauge":
        assert data.aggregation_temporality == CUMULATIVE
    for each in data.data_points:
        if kind == "histogram":
            assert len(each.bucket_counts) == len(each.explicit_bounds) + 1
            assert sum(each.bucket_counts) == each.count
            value: tuple[object, ...] = (
                tuple(each.bucket_counts),
                tuple(each.explicit_bounds),
                each.sum,
            )
        else:
            assert kind == "gauge" or data.is_monotonic
            value = (repr(each.as_double),)
        yield each.attributes, (kind, each.start_time_unix_nano, each.time_unix_nano, *value)


def wanted(batch: Batch, start: int, of_host: int = 0) -> dict[Key, Point]:
    """Return what must arrive, by the rules and not by the encoder; starts of guests and host."""
    found: dict[Key, Point] = {}
    histograms: dict[Key, dict[str, list[Any]]] = {}
    starts: dict[Key, int] = {}
    for reading in batch.readings:
        labels = dict(reading.domain.labels) if reading.domain else {}
        for series, value in zip(reading.shape.series, reading.values, strict=True):
            field = series.field
            name = field.family
            if field.kind is Kind.INFO:
                name = name.removesuffix("_info") + "_info"
            own = dict(series.labels)
            bound = own.pop("le", None)
            key = name, frozenset((k, visible(v)) for k, v in (own | labels).items())
            starts[key] = start if reading.domain else of_host
            number = value
            if math.isfinite(value) and series.part in ("", "sum"):
                try:
                    number = float(Fraction(value) * Fraction(10) ** field.exponent)
                except OverflowError:
                    number = math.copysign(math.inf, value)
            if series.part:
                parts = histograms.setdefault(key, {"bucket": [], "sum": [], "count": []})
                parts[series.part].append((float(bound), value) if bound else number)
                continue
            assert key not in found
            counter = field.kind is Kind.COUNTER
            found[key] = (
                "sum" if counter else "gauge",
                starts[key] if counter else 0,
                batch.taken_at,
                repr(float(number)),
            )
    for key, parts in histograms.items():
        cumulative = [count for _, count in parts["bucket"]]
        found[key] = (
            "histogram",
            starts[key],
            batch.taken_at,
            tuple(b - a for a, b in itertools.pairwise([0, *cumulative])),
            tuple(bound for bound, _ in parts["bucket"][:-1]),
            parts["sum"][0],
        )
    return found


def visible(text: str) -> str:
    """Return an attribute as it arrives."""
    return text.encode("utf-8", "backslashreplace").decode()
