"""Remote write's messages as the protocol buffers library reads them, for comparison."""

import math
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, unknown_fields

from support.http_stub import Received, Stub
from virtstatd.model import Kind, Reading
from virtstatd.sinks.remote_write import WRITTEN


STALE = 0x7FF0000000000002
EXTERNAL = {"job": "j", "instance": "i", "zone": "z"}

_SUFFIXES = {Kind.COUNTER: "_total", Kind.INFO: "_info"}
_FIELD = descriptor_pb2.FieldDescriptorProto
_VERSION_1 = {
    "Label": [("name", 1, "string"), ("value", 2, "string")],
    "Sample": [("value", 1, "double"), ("timestamp", 2, "int64")],
    "TimeSeries": [("labels", 1, "*Label"), ("samples", 2, "*Sample")],
    "Request": [("timeseries", 1, "*TimeSeries")],
}
_VERSION_2 = {
    "Sample": [("value", 1, "double"), ("timestamp", 2, "int64"), ("start_timestamp", 3, "int64")],
    "Metadata": [("type", 1, "int32"), ("help_ref", 3, "uint32"), ("unit_ref", 4, "uint32")],
    "TimeSeries": [
        ("labels_refs", 1, "*uint32"),
        ("samples", 2, "*Sample"),
        ("metadata", 5, "Metadata"),
    ],
    "Request": [("symbols", 4, "*string"), ("timeseries", 5, "*TimeSeries")],
}


def _request(messages: dict[str, list[tuple[str, int, str]]]) -> type:
    file = descriptor_pb2.FileDescriptorProto(name="write", package="write", syntax="proto3")
    for name, members in messages.items():
        message = file.message_type.add(name=name)
        for member, number, kind in members:
            repeated = kind.startswith("*")
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            field = message.field.add(name=member, number=number, label=label)
            if (plain := kind.removeprefix("*")) in messages:
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".write.{plain}"
            else:
                field.type = getattr(_FIELD, f"TYPE_{plain.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("write.Request"))


REQUEST = _request(_VERSION_1)
REQUEST_2 = _request(_VERSION_2)

Labels = tuple[tuple[str, str], ...]


def read(body: bytes) -> list[tuple[Labels, int, int]]:
    """Return labels in their order, the bits of the number, and the time of every sample."""
    request = REQUEST()
    request.ParseFromString(bytes(cramjam.snappy.decompress_raw(body)))
    return [
        (
            tuple((label.name, label.value) for label in series.labels),
            bits(sample.value),
            sample.timestamp,
        )
        for series in request.timeseries
        for sample in series.samples
    ]


class Written(NamedTuple):
    """A sample of version 2.0; `start` is 0 where it is not said."""

    labels: Labels
    bits: int
    time: int
    start: int
    kind: int
    help: str
    unit: str


def read2(body: bytes) -> list[Written]:
    """Return every sample of a request of version 2.0, whose table must be as it has to be."""
    request = REQUEST_2()
    request.ParseFromString(bytes(cramjam.snappy.decompress_raw(body)))
    assert not unknown_fields.UnknownFieldSet(request)
    symbols = request.symbols
    assert symbols[0] == ""
    found: list[Written] = []
    for series in request.timeseries:
        assert not unknown_fields.UnknownFieldSet(series)
        (sample,) = series.samples
        refs = series.labels_refs
        labels = tuple((symbols[a], symbols[b]) for a, b in zip(refs[::2], refs[1::2], strict=True))
        about = series.metadata
        found.append(
            Written(
                labels,
                bits(sample.value),
                sample.timestamp,
                sample.start_timestamp,
                about.type,
                symbols[about.help_ref],
                symbols[about.unit_ref],
            )
        )
    return found


def version(request: Received) -> str:
    """Return the version of a request."""
    two = "proto=io.prometheus.write.v2.Request" in request.headers["Content-Type"]
    assert request.headers["X-Prometheus-Remote-Write-Version"] == ("2.0.0" if two else "0.1.0")
    return "2.0" if two else "1.0"


def understanding(stub: Stub, but: int = 0) -> Callable[[Received], int]:
    """Return a receiver of 2.0 that writes all samples of a request but so many."""

    def decide(request: Received) -> int:
        assert version(request) == "2.0"
        count = len(read2(request.body))
        stub.headers = {WRITTEN: str(max(0, count - but))}
        return 204

    return decide


def bits(number: float) -> int:
    """Return the bits of a double."""
    return int.from_bytes(struct.pack("<d", number), "little")


def wanted(readings: Iterable[Reading]) -> dict[Labels, int]:
    """Return the labels and the bits that must arrive, by the rules and not by the encoder."""
    found: dict[Labels, int] = {}
    for reading in readings:
        for series, value in zip(reading.shape.series, reading.values, strict=True):
            field = series.field
            name = field.family + _SUFFIXES.get(field.kind, "")
            name = name.replace("_info_info", "_info") + (f"_{series.part}" if series.part else "")
            labels = EXTERNAL | dict(series.labels) | {"__name__": name}
            if "le" in labels:
                labels["le"] = str(float(labels["le"])).replace("inf", "+Inf")
            labels |= dict(reading.domain.labels) if reading.domain else {}
            plain = {
                key: text.encode("utf-8", "backslashreplace").decode()
                for key, text in labels.items()
                if text
            }
            number = value
            if series.part in ("", "sum") and math.isfinite(value):
                number = float(Fraction(value) * Fraction(10) ** field.exponent)
            assert tuple(sorted(plain.items())) not in found
            found[tuple(sorted(plain.items()))] = bits(number)
    return found
