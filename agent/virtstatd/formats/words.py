"""Words for grammars without escapes, and lines of one number each: Graphite's and StatsD's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from weakref import WeakKeyDictionary

from virtstatd.formats.naming import visible_bytes
from virtstatd.formats.numbers import decimal_text
from virtstatd.model import Number, Reading, Series, Shape


DOMAIN = "\0"
"""Stands in a line where the domain's own text goes; `word` lets no such character through."""

Around = Callable[[Series], tuple[str, str]]
"""Return the text before and after the number of a series."""

_EMPTY = "%"  # no encoded text is that


def word(text: str, keep: str = "") -> str:
    """
    Return a text with nothing but letters, digits, `_`, `-` and `keep`.

    All else becomes `%` and two digits per byte of UTF-8, as in URLs; the empty text becomes `%`.
    No two texts become the same, and nothing is hidden.
    """
    pattern = rb"[^A-Za-z0-9_" + re.escape(keep.encode()) + rb"-]"
    return re.sub(pattern, _percent, visible_bytes(text)).decode() or _EMPTY


class Flat:
    """The lines of readings, with a template for every shape that is alive."""

    def __init__(self, line: Around) -> None:
        self._line = line
        self._templates: WeakKeyDictionary[Shape, _Template] = WeakKeyDictionary()

    def render(self, reading: Reading, domain: str) -> str:
        """Return a reading's lines; those of NaN and the infinities are left out."""
        template = self._templates.get(reading.shape)
        if template is None:
            template = self._templates[reading.shape] = _Template(reading.shape, self._line)
        return template.render(reading.values, domain)


class _Template:
    def __init__(self, shape: Shape, line: Around) -> None:
        self._around = [line(series) for series in shape.series]
        self._exponents = [series.exponent for series in shape.series]
        self._integers = "".join(
            f"{before.replace('%', '%%')}%s{f'e{exponent}' if exponent else ''}"
            f"{after.replace('%', '%%')}\n"
            for (before, after), exponent in zip(self._around, self._exponents, strict=True)
        )

    def render(self, values: tuple[Number, ...], domain: str) -> str:
        if set(map(type, values)) <= {int}:
            text = self._integers % values
        else:
            text = "".join(
                f"{before}{decimal_text(value, exponent)}{after}\n"
                for value, exponent, (before, after) in zip(
                    values, self._exponents, self._around, strict=True
                )
                if math.isfinite(value)
            )
        return text.replace(DOMAIN, domain)


def _percent(found: re.Match[bytes]) -> bytes:
    return b"%%%02X" % found[0][0]
