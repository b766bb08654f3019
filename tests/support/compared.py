"""What the library in C and the code in Python make of the same input."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

from hypothesis import strategies as st

from support.hostile import TEXTS
from virtstatd._fast.plain import Layout, Parsed, PlainKept
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
    assert fast.render(values, labels) == plain.render(values, labels)
