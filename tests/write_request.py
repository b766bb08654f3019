"""Remote write's messages as the protocol buffers library reads them, for comparison."""

import math
import struct
from collections.abc import Iterable
from fractions import Fraction

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from virtstatd.model import Kind, Reading


STALE = 0x7FF0000000000002
EXTERNAL = {"job": "j", "instance": "i", "zone": "z"}

_SUFFIXES = {Kind.COUNTER: "_total", Kind.INFO: "_info"}
_FIELD = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {
    "Label": [("name", 1, "string"), ("value", 2, "string")],
    "Sample": [("value", 1, "double"), ("timestamp", 2, "int64")],
    "TimeSeries": [("labels", 1, "Label"), ("samples", 2, "Sample")],
    "WriteRequest": [("timeseries", 1, "TimeSeries")],
}


def _request() -> type:
    file = descriptor_pb2.FileDescriptorProto(name="write", package="write", syntax="proto3")
    for name, members in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for member, number, kind in members:
            field = message.field.add(name=member, number=number, label=_FIELD.LABEL_OPTIONAL)
            if kind in _MESSAGES:
                field.label = _FIELD.LABEL_REPEATED
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".write.{kind}"
            else:
                field.type = getattr(_FIELD, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("write.WriteRequest"))


REQUEST = _request()

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


def bits(number: float) -> int:
    """Return the bits of a double."""
    return struct.unpack("<Q", struct.pack("<d", number))[0]


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
