"""Topics and subjects: names with levels, made from a template and a reading."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from virtstatd.formats.chunks import whole_lines
from virtstatd.formats.json_lines import Lines
from virtstatd.formats.words import word
from virtstatd.model import Batch, Domain, Reading


PLACES: Final = ("host", "source", "group", "domain", "uuid")
HOST: Final = "host"
"""Stands for the domain and its UUID where a reading is the host's own."""

_PLACE = re.compile(r"\{(\w*)\}")


class Topics:
    """
    Make topics of a template like `virtstatd/{host}/{uuid}/{group}`.

    Each value that is filled in stays one level: every character but letters, digits, `_` and `-`
    becomes `%` and two hexadecimal digits.
    """

    def __init__(self, template: str, host: str) -> None:
        self._template = template.replace("{host}", word(host))

    def of(self, reading: Reading, source: str) -> str:
        """Return the topic of a reading."""
        domain = reading.domain
        return self._template.format(
            source=word(source),
            group=word(reading.shape.group),
            domain=word(domain.name) if domain else HOST,
            uuid=word(domain.uuid) if domain else HOST,
        )


@dataclass(slots=True)
class TopicText:
    """The JSON lines that a batch has for one topic, by reading, with their numbers of samples."""

    topic: str
    domains: set[Domain] = field(default_factory=set)
    readings: list[tuple[bytes, int]] = field(default_factory=list)

    def payloads(self, limit: int) -> Iterator[tuple[bytes, int]]:
        """
        Yield payloads of whole lines up to a size, each with its number of samples.

        A line of more bytes is a payload by itself. Where a reading is in several payloads, each
        has its share of the samples by bytes, rounded up.
        """
        rest = deque(self.readings)
        used = 0  # bytes of the first
        for payload in whole_lines(b"".join(text for text, _ in self.readings), limit):
            left, samples = len(payload), 0
            while left:
                text, count = rest[0]
                taken = min(left, len(text) - used)
                samples += -(-count * taken // len(text))
                left -= taken
                used += taken
                if used == len(text):
                    rest.popleft()
                    used = 0
            yield payload, samples


def by_topic(lines: Lines, topics: Topics, batch: Batch) -> Iterable[TopicText]:
    """Return the lines of a batch, by topic."""
    found: dict[str, TopicText] = {}
    for reading, text in lines.readings(batch):
        topic = topics.of(reading, batch.source)
        if topic not in found:
            found[topic] = TopicText(topic)
        if reading.domain:
            found[topic].domains.add(reading.domain)
        found[topic].readings.append((text.encode(), len(reading.values)))
    return found.values()


def check_template(option: str, template: str, separator: str) -> None:
    """Raise ValueError for a template that makes no topics."""
    for place in _PLACE.findall(template):
        if place not in PLACES:
            known = ", ".join(f"{{{each}}}" for each in PLACES)
            raise ValueError(f"{option}: unknown {{{place}}}, known: {known}")
    level = r"[A-Za-z0-9_%-]+"
    pattern = f"{level}({re.escape(separator)}{level})*"
    if not re.fullmatch(pattern, _PLACE.sub("_", template)):
        raise ValueError(
            f"{option}: must be levels of letters, digits, _, - and places with {separator} between"
        )
