"""
Prometheus' text format with times, as VictoriaMetrics imports it.

`libvirt_domain_vcpu_exits_total{domain="web",vcpu="0",instance="node1"} 4096 1700000000123`

NaN and infinity are left out.
"""

from __future__ import annotations

import functools

from virtstatd.formats.chunks import Chunk
from virtstatd.formats.naming import label_name, labels_of, name_of
from virtstatd.formats.prometheus_text import escape, label_text
from virtstatd.formats.words import DOMAIN, Flat
from virtstatd.model import Batch, Labels, Reading, Series


_TIME = "\1"  # `escape` lets neither it nor the mark of the domain through


class TimedText:
    """Encode readings, with a template for every shape that is alive."""

    def __init__(self, labels: Labels) -> None:
        self._labels = {label_name(name): text for name, text in labels}
        self._names = frozenset(self._labels)
        self._flat = Flat(self._line)

    def items(self, batch: Batch) -> list[Chunk]:
        """Return the chunks of a batch."""
        return [
            (len(each.values), functools.partial(self.encode, each, batch.taken_at))
            for each in batch.readings
        ]

    def encode(self, reading: Reading, taken_at: int) -> bytes:
        """Return the lines of a reading."""
        domain = _domain(reading.domain.labels, self._names) if reading.domain else ""
        text = self._flat.render(reading, domain)
        return text.replace(_TIME, str(taken_at // 1_000_000)).encode()

    def _line(self, series: Series) -> tuple[str, str]:
        own = {label_name(name): text for name, text in labels_of(series)}
        both = {**self._labels, **own}
        pairs = ",".join(f'{name}="{escape(text)}"' for name, text in both.items())
        return f"{name_of(series)}{{{DOMAIN}{pairs}}} ", f" {_TIME}"


@functools.lru_cache(maxsize=4096)
def _domain(labels: Labels, taken: frozenset[str]) -> str:
    """Return a domain's labels, except for those that every line has already."""
    own = tuple((name, text) for name, text in labels if label_name(name) not in taken)
    return f"{label_text(own).decode()}," if own else ""
