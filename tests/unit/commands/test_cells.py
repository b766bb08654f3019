"""Text of guests in cells of a terminal."""

import unicodedata

import pytest

from support.documents import HOSTILE
from virtstatd.commands.cells import cells, fitted, neutral


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_nothing_of_a_name_does_anything(name: str, ascii_only: bool):
    """No control, format, joining or turning character is left, and each has a width."""
    shown = neutral(name, ascii_only=ascii_only)

    assert shown.isprintable()
    assert not ascii_only or shown.isascii()
    for each in shown:
        assert unicodedata.category(each) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Mn", "Me"}
        assert unicodedata.bidirectional(each) not in {"R", "AL", "AN", "LRE", "RLE", "RLO"}
    assert cells(shown) >= len(shown)


@pytest.mark.parametrize("name", [*HOSTILE, "plain", "\u6f22\u5b57 guest", "Stra\u00dfe"])
@pytest.mark.parametrize("width", [0, 1, 2, 5, 9, 40])
def test_a_cell_has_its_width(name: str, width: int):
    """Whatever stands in it, a cell is as wide as it should be, on both sides."""
    for right in (False, True):
        assert cells(fitted(neutral(name), width, right=right)) == width


def test_plain_names_are_themselves():
    """Letters of other alphabets are shown, composed; blanks of all kinds are one blank."""
    assert neutral("web-1") == "web-1"
    assert neutral("Stra\u00dfe \u6f22\u5b57") == "Stra\u00dfe \u6f22\u5b57"
    assert neutral("cafe\u0301\u00a0bar") == "caf\u00e9 bar"
    assert neutral("cafe\u0301", ascii_only=True) == "caf?"


def test_what_is_cut_says_so():
    """A name that does not fit ends with a mark, in ASCII where the name is."""
    assert fitted("abcdef", 4) == "abc~"
    assert fitted(neutral("\U0001f600" * 255), 6) == "\U0001f600\U0001f600\u2026 "
