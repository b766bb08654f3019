"""Filled texts: the library in C writes what the code in Python does."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.compared import FILL_CASES, FillCase, compare_fill
from support.native import native
from virtstatd.formats.numbers import plain_text


@given(FILL_CASES)
def test_both_fill_in_the_same_bytes(case: FillCase):
    """Any lines, numbers and labels become the same parts."""
    compare_fill(native(), case)


@given(st.floats(), st.integers(-20, 3))
@example(math.nan, -9)
@example(-math.inf, 0)
@example(sys.float_info.min / 2, -9)
@example(sys.float_info.max, 0)
@example(-0.0, -3)
def test_every_float_has_its_one_text(number: float, exponent: int):
    """Subnormal, infinite and undefined ones are written as everywhere else."""
    fill = native().Fill(b"a\n", ((1, 0, exponent),), plain_text)
    assert fill.render((number,), b"") == [f"a{plain_text(number, exponent)}\n".encode()]


@given(st.integers(), st.integers(-20, 3))
@example(-(2**63), -18)
@example(2**64 - 1, -18)
@example(2**64, 0)
def test_every_integer_has_its_one_text(number: int, exponent: int):
    """Integers beyond 64 bits, and exponents beyond the table, are written as everywhere else."""
    fill = native().Fill(b"", ((0, 0, exponent),), plain_text)
    assert fill.render((number,), b"") == [plain_text(number, exponent).encode()]


def test_labels_and_parts():
    """U+0000 is where the labels go, as often as it is there; U+0001 ends a part."""
    fill = native().Fill(b"\0\0a\1\1b\0\1", (), plain_text)
    assert fill.render((), b"xy") == [b"xyxya", b"", b"bxy", b""]
    assert native().Fill(b"", (), plain_text).render((), b"") == [b""]


@pytest.mark.parametrize(
    ("text", "holes", "kind"),
    [
        (b"a", ((2, 0, 0),), ValueError),
        (b"a", ((-1, 0, 0),), ValueError),
        (b"ab", ((2, 0, 0), (1, 0, 0)), ValueError),
        (b"a", ((1, -1, 0),), ValueError),
        (b"a", ((1, 2**63 - 1, 0),), ValueError),
        (b"a", ((1, 2**64, 0),), OverflowError),
        (b"a", ((1, 0, 2**64),), OverflowError),
        (b"a", ((1, 0),), TypeError),
        (b"a", (1,), TypeError),
    ],
)
def test_what_is_no_hole(text: bytes, holes: tuple[object, ...], kind: type[Exception]):
    """Holes outside of the text, or not in order, are refused."""
    with pytest.raises(kind):
        native().Fill(text, holes, plain_text)


def test_a_block_grows():
    """Thousands of parts of any size stand one after another in their block."""
    block, expected = bytearray(b"head"), b"head"
    for size in (*range(300), 5_000, 1, 70_000, 3):
        fill = native().Fill(b"x" * size + b"\n", ((size, 0, 0),), plain_text)
        fill.append((size,), b"", (block,))
        expected += b"x" * size + b"%d\n" % size
    assert block == expected


def test_what_is_no_block_for_each_part():
    """Too many, too few or fixed blocks are refused; a fault in a value appends nothing."""
    fill = native().Fill(b"a\1", ((1, 0, 0),), plain_text)
    blocks = bytearray(b"x"), bytearray(b"y")
    for wrong in ((), blocks[:1], (*blocks, bytearray()), list(blocks), (b"", b"")):
        with pytest.raises((ValueError, TypeError)):
            fill.append((1,), b"", wrong)
    with pytest.raises(TypeError):
        fill.append((None,), b"", blocks)
    with memoryview(blocks[0]), pytest.raises(BufferError):
        fill.append((1,), b"", blocks)
    assert list(map(bytes, blocks)) == [b"x", b"y"]
    fill.append((1,), b"", blocks)
    assert list(map(bytes, blocks)) == [b"xa1", b"y"]


def test_values_that_do_not_fit():
    """Too few values, no tuple, or what has no text are errors, and not memory of others."""
    fill = native().Fill(b"a", ((1, 3, 0),), plain_text)
    with pytest.raises(IndexError):
        fill.render((1, 2, 3), b"")
    with pytest.raises(TypeError):
        fill.render([1, 2, 3, 4], b"")
    with pytest.raises(TypeError):
        fill.render((1, 2, 3, None), b"")
    with pytest.raises(TypeError):
        native().Fill(b"", ((0, 0, 0),), lambda *_: b"no str").render((0.5,), b"")
