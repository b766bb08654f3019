"""What node_exporter shows of a page in a file."""

import asyncio
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families


def shown(key: str, text: str) -> str:
    """Return a label's value as the collector has it: its `le` is Go's, bytes are made visible."""
    if key == "le":
        return str(float(text))
    marks = {0: "\N{REPLACEMENT CHARACTER}", 1: "\N{REPLACEMENT CHARACTER}"}
    return text.encode("utf-8", "backslashreplace").decode().translate(marks)


def key_of(name: str, labels: Iterable[tuple[str, str]]) -> tuple[Any, ...]:
    """Return what two equal series share; an empty label is none."""
    return name, frozenset((key, shown(key, text)) for key, text in labels if text)


async def collected(port: int) -> dict[tuple[Any, ...], float]:
    """Return what node_exporter shows of the guests."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return {
        key_of(sample.name, sample.labels.items()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.startswith("libvirt")
    }
