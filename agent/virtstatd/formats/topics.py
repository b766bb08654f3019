"""Topics and subjects: names with levels, made from a template and a reading."""

from __future__ import annotations

import re
from typing import Final

from virtstatd.formats.words import word
from virtstatd.model import Reading


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
