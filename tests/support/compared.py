"""What the library in C and the code in Python make of the same input."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

from hypothesis import strategies as st

from support.hostile import TEXTS
from virtstatd._fast.plain import Layout, Parsed, PlainKept
from virtstatd.collect.kernel.storms import FLOATS, Shares
from virtstatd.formats.numbers import line_template
from virtstatd.model import Number


LETTERS = "".join(Layout)

KeptCase = tuple[str, list[dict[int, bytes]]]
"""Layouts, and in each step the new texts of some files."""

KEPT_CASES: st.SearchStrategy[KeptCase] = st.text(LETTERS, min_size=1, max_size=5).flatmap(
    lambda layouts: st.tuples(
        st.just(layouts),
        st.lists(
            st.dictionaries(st.integers(0, len(layouts) - 1), TEXTS, max_size=len(layouts)),
            min_size=1,
            max_size=5,
        ),
    )
)

FillCase = tuple[list[tuple[str, str, int, int]], tuple[Number, ...], bytes]
"""Lines, each as the texts around its number, its exponent and its place; values; labels."""

FILL_CASES: st.SearchStrategy[FillCase] = st.lists(
    st.one_of(
        st.integers(),
        st.integers(-(10**20), 10**20),
        st.sampled_from(
            [0, 10**9, -(10**9), 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64]
        ),
        st.booleans(),
        st.floats(),
    ),
    min_size=1,
    max_size=6,
).flatmap(
    lambda values: st.tuples(
        st.lists(
            st.tuples(
                st.text(st.characters(exclude_characters="\n\1", codec="utf-8"), max_size=9)
                | st.sampled_from(["%s", "a{\0} ", "%d%%"]),
                st.sampled_from(["\n", "\n\1"]),
                st.sampled_from([-25, -19, -18, -9, -6, -3, -1, 0, 3]),
                st.integers(0, len(values) - 1),
            ),
            max_size=8,
        ),
        st.just(tuple(values)),
        st.binary(max_size=9).map(lambda labels: labels.replace(b"\0", b"").replace(b"\1", b"")),
    )
)


SharesCase = list[tuple[list[int], int]]
"""In each step by how much spans grow, none for spans that are the same, and in how much time."""

SHARES_CASES: st.SearchStrategy[SharesCase] = st.lists(
    st.tuples(
        st.lists(
            st.integers(0, 10**7)
            | st.sampled_from([0, 10**7, 2 * 10**7, 5 * 10**8, 10**9, 2**63, 2**64, -1, -(2**64)])
            | st.integers(-(10**9), 2 * 10**9),
            max_size=4,
        ),
        st.sampled_from([1, 10**9, 10**9 + 7, 40 * 10**9]) | st.integers(1, 2**45),
    ),
    max_size=12,
)


@contextmanager
def files(count: int) -> Iterator[list[int]]:
    """Open so many files in memory."""
    with ExitStack() as opened:
        descriptors = [os.memfd_create("kept") for _ in range(count)]
        for descriptor in descriptors:
            opened.callback(os.close, descriptor)
        yield descriptors


def write(descriptor: int, text: bytes) -> None:
    """Have a file hold this and nothing else."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text, 0)


def outcome(kept: PlainKept) -> tuple[Parsed, ...] | str:
    """Return what the files say, or what is raised."""
    try:
        return kept.read()
    except OSError as error:
        return f"{type(error).__name__} {error.errno}"
    except ValueError as error:
        return type(error).__name__


def compare_kept(library: ModuleType, case: KeptCase) -> None:
    """Fail where values, types, exceptions or the reuse of objects are not alike."""
    layouts, steps = case
    with files(len(layouts)) as descriptors:
        plain, fast = (kind(descriptors, layouts) for kind in (PlainKept, library.Kept))
        formers: tuple[object, object] = None, None
        for step in steps:
            for at, text in step.items():
                write(descriptors[at], text)
            said = outcome(plain), outcome(fast)
            assert said[0] == said[1]
            assert repr(said[0]) == repr(said[1])  # a bool or a float would be equal
            reused = [_identities(*pair) for pair in zip(said, formers, strict=True)]
            assert reused[0] == reused[1]
            formers = said


def compare_shares(library: ModuleType, case: SharesCase) -> None:
    """Fail where histograms or peaks are not the same numbers."""
    both = Shares(60.0), library.Shares(FLOATS, 60.0)
    spans: tuple[int, ...] = (0, 5, 2**40, 3)
    now = 0.0
    for grown, elapsed in case:
        before = spans
        if grown:
            rest = (0,) * (len(spans) - len(grown))
            spans = tuple(map(sum, zip(spans, (*grown, *rest), strict=True)))
        now += elapsed / 1e9
        for each in both:
            each.observe(spans, before, elapsed, now)
        assert repr(both[0].histogram()) == repr(both[1].histogram())
        assert both[0].peak() == both[1].peak()


def _identities(values: object, former: object) -> list[bool]:
    """Return which objects are those of before: the whole, and each."""
    if not isinstance(values, tuple) or not isinstance(former, tuple):
        return []
    return [values is former, *(a is b for a, b in zip(values, former, strict=True))]


def compare_fill(library: ModuleType, case: FillCase) -> None:
    """Fail where the parts of a filled text are not the same bytes."""
    lines, values, labels = case
    texts = [(before, behind) for before, behind, _, _ in lines]
    exponents, places = [line[2] for line in lines], [line[3] for line in lines]
    plain, fast = (
        line_template(texts, exponents, places, len(values), fill) for fill in (None, library.Fill)
    )
    parts = plain.render(values, labels)
    assert fast.render(values, labels) == parts
    blocks = [tuple(bytearray(b"former") for _ in parts) for _ in range(2)]
    for filled, those in zip((plain, fast), blocks, strict=True):
        for _ in range(2):
            filled.append(values, labels, those)
    assert blocks[0] == blocks[1]
    assert blocks[1] == tuple(b"former" + part * 2 for part in parts)
