"""Numbers in base units: as decimal text, as doubles, and as protocol buffers count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from operator import floordiv, itemgetter, mod, truediv

from virtstatd._fast import FILL
from virtstatd._fast.plain import Fill, Filled
from virtstatd.model import Number, Shape


PLAIN_DIGITS = 30

Divisors = tuple[int | Fraction, ...]


def decimal_text(value: Number, exponent: int = 0) -> str:
    """Render a number that is given in units of `10 ** exponent`, without rounding it."""
    if not isinstance(value, float):
        return f"{int(value)}e{exponent}" if exponent else f"{int(value)}"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(Decimal(repr(value)).scaleb(exponent)) if exponent else repr(value)


def plain_text(value: Number, exponent: int = 0) -> str:
    """
    Render a number as `decimal_text` does, for people: `6.130068903`, without an exponent.

    A float beyond `PLAIN_DIGITS` keeps its own, since hundreds of zeros help no reader.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return decimal_text(value)
        number = Decimal(repr(value)).scaleb(exponent)
        return (
            f"{number:f}"
            if abs(number.adjusted()) <= PLAIN_DIGITS
            else decimal_text(value, exponent)
        )
    if exponent >= 0:
        return f"{int(value) * 10**exponent}"
    whole, rest = divmod(abs(value), 10**-exponent)
    return f"{'-' * (value < 0)}{whole}" + (f".{rest:0{-exponent}}" if rest else "")


@dataclass(frozen=True, slots=True, eq=False)
class NumberTemplate:
    """
    A text with holes for numbers, to be filled by one formatting call.

    `integers` is for readings of nothing but integers and has their exponents in it; `anything`
    takes numbers as finished text. `order` are the places of the values that are shown, None for
    all of them as they come.
    """

    integers: str
    anything: str
    exponents: tuple[int, ...]
    order: tuple[int, ...] | None = None

    def render(
        self,
        values: tuple[Number, ...],
        text: Callable[[Number, int], str] = decimal_text,
    ) -> str:
        """Fill in the values of a reading; `text` renders what is no integer."""
        if self.order is not None:
            values = tuple([values[index] for index in self.order])
        if set(map(type, values)) <= {int}:
            return self.integers % values
        return self.anything % tuple(map(text, values, self.exponents))


Pick = Callable[[Sequence[Number]], tuple[Number, ...]]
"""Takes values at certain places out of a sequence."""


@dataclass(frozen=True, slots=True, eq=False)
class PlainTemplate:
    """
    A text with holes for numbers in plain decimals, each at the end of its line; see `Filled`.

    `integers` has two holes for a number with an exponent, before and behind its point: `spread`
    picks what goes into them out of the values followed by the quotients and remainders of those
    that `divided` picks. `anything` takes numbers as finished text, those that `shown` picks. Bytes
    are formatted nearly twice as fast as text.
    """

    integers: bytes
    anything: bytes
    exponents: tuple[int, ...]
    shown: Pick
    divided: Pick
    powers: tuple[int, ...]
    spread: Pick
    zeros: tuple[bytes, ...]
    common: bool
    """Whether no exponent is positive, as with all fields of the catalog."""

    def render(self, values: tuple[Number, ...], labels: bytes, /) -> list[bytes]:
        """Fill in the values of a reading and the labels; return the parts."""
        return self._filled(values).replace(b"\0", labels).split(b"\1")

    def append(
        self, values: tuple[Number, ...], labels: bytes, blocks: tuple[bytearray, ...], /
    ) -> None:
        """Fill in, and append each part to its block."""
        for block, part in zip(blocks, self.render(values, labels), strict=True):
            block.extend(part)

    def _filled(self, values: tuple[Number, ...]) -> bytes:
        if (
            self.common and type(sum(values)) is int
        ):  # then so is each, or a bool, which has a number's text here
            if not self.powers:
                return self.integers % self.spread(values)
            divided = self.divided(values)
            if min(divided) >= 0:  # divmod rounds down, which would need another text
                quotients = map(floordiv, divided, self.powers)
                remainders = map(mod, divided, self.powers)
                text = self.integers % self.spread((*values, *quotients, *remainders))
                for fraction in self.zeros:
                    text = text.replace(fraction, b"\n")
                return text
        texts = map(plain_text, self.shown(values), self.exponents)
        return self.anything % tuple([text.encode() for text in texts])


def line_template(
    lines: Sequence[tuple[str, str]],
    exponents: Sequence[int],
    places: Sequence[int],
    count: int,
    fill: Fill | None = FILL,
) -> Filled:
    """
    Compile lines, each given as what stands before its number and behind it.

    `places` are those of the numbers among the `count` values of a reading.
    """
    if fill is None:
        return plain_template(lines, exponents, places, count)
    text = bytearray()
    holes: list[tuple[int, int, int]] = []
    for (before, behind), exponent, place in zip(lines, exponents, places, strict=True):
        text += before.encode()
        holes.append((len(text), place, exponent))
        text += behind.encode()
    return fill(bytes(text), tuple(holes), plain_text)


def plain_template(
    lines: Sequence[tuple[str, str]], exponents: Sequence[int], places: Sequence[int], count: int
) -> PlainTemplate:
    """Compile lines, as `line_template` does where there is no library in C."""
    divided = [place for place, exponent in zip(places, exponents, strict=True) if exponent < 0]
    spread: list[int] = []
    integers: list[str] = []
    quotient = count
    escaped = [(before.replace("%", "%%"), behind) for before, behind in lines]
    for (before, behind), exponent, place in zip(escaped, exponents, places, strict=True):
        if exponent < 0:
            integers.append(f"{before}%d.%0{-exponent}d{behind}")
            spread += quotient, quotient + len(divided)
            quotient += 1
        else:
            integers.append(f"{before}%d{behind}")
            spread.append(place)
    return PlainTemplate(
        integers="".join(integers).encode(),
        anything="".join(f"{before}%s{behind}" for before, behind in escaped).encode(),
        exponents=tuple(exponents),
        shown=_pick(places),
        divided=_pick(divided),
        powers=tuple(10**-exponent for exponent in exponents if exponent < 0),
        spread=_pick(spread),
        zeros=tuple(f".{'0' * -each}\n".encode() for each in sorted({*exponents}) if each < 0),
        common=all(each <= 0 for each in exponents),
    )


def _pick(places: Sequence[int]) -> Pick:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[place] for place in places)


def divisor(exponent: int) -> int | Fraction:
    """Return what a number in units of `10 ** exponent` is divided by, so as to be rounded once."""
    return 10**-exponent if exponent <= 0 else Fraction(1, 10**exponent)


def divisors_of(shape: Shape) -> Divisors | None:
    """Return the divisor of each series, None where all numbers are in base units already."""
    divisors = tuple(divisor(series.exponent) for series in shape.series)
    return divisors if any(each != 1 for each in divisors) else None


def scaled(values: Sequence[Number], divisors: Divisors | None) -> Sequence[Number]:
    """Return values in base units, each rounded once."""
    return values if divisors is None else tuple(map(truediv, values, divisors))


def varint(number: int) -> bytes:
    """Encode a number of zero or more in groups of seven bits, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
