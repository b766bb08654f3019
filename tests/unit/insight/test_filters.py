"""Filter words and sort keys."""

import random
import time

import pytest

from virtstatd.insight.columns import COLUMNS, GuestRow
from virtstatd.insight.filters import Filter, FilterError, Order


def row(name: str, **cells: str | float | bool | None) -> GuestRow:
    """Return a row of which nothing else is known."""
    return {**{each.id: None for each in COLUMNS}, "severity": "", "name": name, **cells}


ROWS = [
    row("web-1", steal_ratio=0.06, state="running", project="shop", stuck=False),
    row("web-2", steal_ratio=0.01, state="paused", project="shop-test", stuck=False),
    row("db", steal_ratio=None, disk_latency_seconds=0.021, stuck=True, state="running"),
    row("\N{RIGHT-TO-LEFT OVERRIDE}<b>", memory_rss_bytes=3 << 30, state="crashed"),
]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", [0, 1, 2, 3]),
        ("web", [0, 1]),
        ("WEB 2", [1]),
        ("-web", [2, 3]),
        ("steal>5", [0]),
        ("steal<=1", [1]),
        ("-steal>5", [1, 2, 3]),
        ("latency>20", [2]),
        ("latency>22", []),
        ("rss>2G", [3]),
        ("rss>=3gib", [3]),
        ("rss>4G", []),
        ("state:paused", [1]),
        ("state:run", [0, 2]),
        ("project:shop", [0, 1]),
        ("project:", [2, 3]),
        ("stuck:yes", [2]),
        ("-project:shop -stuck:true", [3]),
        ("name:b", [0, 1, 2, 3]),
        ("name:<", [3]),
        ("/^web-[0-9]$/", [0, 1]),
        ("-/^w/ db", [2]),
        ("/b$/", [2]),
        ("-", [0, 1]),
    ],
)
def test_words(text: str, wanted: list[int]):
    """All words must apply; ratios are in per cent, latencies in ms, bytes in multiples."""
    found = Filter(text)
    assert [at for at, each in enumerate(ROWS) if found(each)] == wanted


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("stael>5", "'stael' is not a column; known: steal"),
        ("colour:red", "'colour' is not a column"),
        ("steal>5.5.5", "'5.5.5' is not a number"),
        ("name>5", "name is a text: write name:5"),
        ("steal:5", "steal_ratio is a number: write steal>1"),
        ("/(/", "missing )"),
        ("/(a+)+$/", "may take too long"),
        ("/(a|a)*b/", "may take too long"),
        ("/a*a*a*b/", "may take too long"),
        (f"/{'a?' * 20}b/", "may take too long"),
        (r"/(a)\1/", "may take too long"),
        ("/(?=a)b/", "may take too long"),
        (f"/{'a' * 101}/", "at most 100 characters"),
        ("a" * 257, "more than 256 characters"),
        ("a " * 17, "more than 16 filter words"),
    ],
)
def test_wrong_words_say_what_is_known(text: str, fault: str):
    """A word that cannot be used is named, with what could be."""
    with pytest.raises(FilterError) as raised:
        Filter(text)
    assert fault in str(raised.value)


def test_no_expression_takes_long():
    """Whatever expression is accepted, a name that it almost matches costs little CPU time."""
    pick = random.Random(7)
    atoms = ["a", "a*", "a+", "a?", ".*", "(a|b)", "(aa|a)", "[ab]+", "(a?)", "a{2,9}", "(a)*"]
    name = row("a" * 255 + "!")
    accepted = 0
    for _ in range(300):
        text = "".join(pick.choice(atoms) for _ in range(pick.randint(1, 8))) + "$"
        try:
            found = Filter(f"/{text}/")
        except FilterError:
            continue
        accepted += 1
        begun = time.thread_time()
        found(name)
        assert time.thread_time() - begun < 0.1, text
    assert accepted > 30


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", ["a", "b", "c"]),
        ("-name", ["c", "b", "a"]),
        ("steal", ["c", "a", "b"]),
        ("-steal_ratio", ["a", "c", "b"]),
        ("", ["b", "a", "c"]),
    ],
)
def test_order(sort: str, names: list[str]):
    """Unknown comes last in any order; without one, what hurts comes first."""
    rows = [
        row("c", steal_ratio=0.1),
        row("b", steal_ratio=None, severity="warning"),
        row("a", steal_ratio=0.2),
    ]
    Order(sort).sort(rows)
    assert [each["name"] for each in rows] == names


def test_an_unknown_sort_key_is_refused():
    """A sort key is a column."""
    with pytest.raises(FilterError, match="'-x' is not a column"):
        Order("--x")
