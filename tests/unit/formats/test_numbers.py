from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtstatd.formats.numbers import (
    NumberTemplate,
    decimal_text,
    divisors_of,
    plain_template,
    plain_text,
    scaled,
    varint,
)
from virtstatd.model import Number, Shape
from virtstatd.testing import make_shapes


@pytest.mark.parametrize(
    ("value", "exponent", "text"),
    [
        (True, 0, "1"),
        (False, -9, "0e-9"),
        (0.1, 0, "0.1"),
        (1.5, -9, "1.5E-9"),
        (1e300, -9, "1E+291"),
        (math.nan, -9, "NaN"),
        (math.inf, 0, "+Inf"),
        (-math.inf, -9, "-Inf"),
        (2**64, 0, "18446744073709551616"),
    ],
)
def test_numbers(value: Number, exponent: int, text: str):
    """Every kind of number has its exact text."""
    assert decimal_text(value, exponent) == text


@pytest.mark.parametrize(
    ("value", "exponent", "text"),
    [
        (True, 0, "1"),
        (False, -9, "0"),
        (6_130_068_903, -9, "6.130068903"),
        (-1, -9, "-0.000000001"),
        (-1_500_000_000, -9, "-1.500000000"),
        (5_000_000, -6, "5"),
        (3, 3, "3000"),
        (1.5, -9, "0.0000000015"),
        (1e-7, 0, "0.0000001"),
        (1e22, 0, "10000000000000000000000"),
        (0.1, 0, "0.1"),
        (1e300, -9, "1E+291"),
        (math.nan, -9, "NaN"),
        (math.inf, 0, "+Inf"),
    ],
)
def test_numbers_for_people(value: Number, exponent: int, text: str):
    """No number that somebody could read has an exponent, and none is rounded."""
    assert plain_text(value, exponent) == text


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**64), 2**64)
            | st.booleans()
            | st.floats(allow_nan=False, allow_infinity=False),
            st.sampled_from([-9, -6, -3, 0, 3]),
        ),
        max_size=6,
    )
)
def test_a_line_has_its_number_whatever_the_others_are(row: list[tuple[Number, int]]):
    """A template renders each number as it is by itself, exactly, at the end of its own line."""
    values = (*(value for value, _ in row), 77)
    exponents = [exponent for _, exponent in row]
    lines = [(f"%s{place} ", "\n") for place in range(len(row))]
    template = plain_template(lines, exponents, range(len(row)), len(values))
    found = b"".join(template.render(values, b"")).decode().splitlines()
    assert found == [
        f"%s{place} {plain_text(value, exponent)}" for place, (value, exponent) in enumerate(row)
    ]
    for line, (value, exponent) in zip(found, row, strict=True):
        exact = Fraction(Decimal(repr(value)) if isinstance(value, float) else value)
        assert Fraction(line.split()[1]) == exact * Fraction(10) ** exponent


def test_all_integers_and_a_mixture_render_alike_but_for_floats():
    """A reading of integers has the same text as one with a float, in the order that is shown."""
    template = NumberTemplate("a %se-9 b %s", "a %s b %s", (-9, 0), (2, 0))
    assert template.render((1, 2, 3)) == "a 3e-9 b 1"
    assert template.render((1.0, 2, 3)) == "a 3e-9 b 1.0"


def test_the_parts_of_a_histogram_have_their_own_divisors():
    """Only the sum of a histogram in nanoseconds is divided; buckets and count are numbers."""
    block = next(shape for shape in make_shapes() if shape.group == "block")
    parts = {
        (series.part, divisor)
        for series, divisor in zip(block.series, divisors_of(block) or (), strict=True)
        if series.part
    }
    assert parts == {("bucket", 1), ("sum", 10**9), ("count", 1)}


def test_what_is_in_base_units_is_not_copied():
    """A shape without exponents has no divisors, and its values stay the same object."""
    shape = Shape("state", make_shapes()[0].series)
    values = (1,)
    assert divisors_of(shape) is None
    assert scaled(values, None) is values
    assert scaled((1, 5), (10**9, Fraction(1, 1000))) == (1e-9, 5000.0)


@given(st.integers(0, 2**64 - 1))
def test_varints_are_groups_of_seven_bits(number: int):
    """The groups give the number again, and only the last of them has no bit to go on."""
    encoded = varint(number)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded)) == number
    assert [byte >> 7 for byte in encoded] == [1] * (len(encoded) - 1) + [0]
