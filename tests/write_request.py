"""Remote write's messages as the protocol buffers library reads them, for comparison."""

import struct

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


STALE = 0x7FF0000000000002

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
