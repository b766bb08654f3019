"""Kept files: the library in C does what the code in Python does."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given

from support.compared import KEPT_CASES, KeptCase, compare_kept, files, outcome, write
from support.native import native
from virtstatd._fast.plain import READ_BYTES, Layout, Parsed, PlainKept


SCHEDSTAT = b"5000000 20 7\n"


def both() -> tuple[type[PlainKept], type[PlainKept]]:
    """Return the class in Python and the one in C."""
    return PlainKept, native().Kept


@given(KEPT_CASES)
def test_both_say_the_same_of_any_files(case: KeptCase):
    """Values, types, exceptions and the reuse of objects are alike, whatever files turn into."""
    compare_kept(native(), case)


@pytest.mark.parametrize("kind", both(), ids=["Python", "C"])
def test_what_is_the_same_is_the_same_object(kind: type[PlainKept]):
    """Nothing is made anew of files that did not change, and only the changed ones otherwise."""
    with files(2) as descriptors:
        kept = kind(descriptors, "nn")
        write(descriptors[0], SCHEDSTAT)
        first = kept.read()
        assert first == ([5_000_000, 20, 7], [])
        assert kept.read() is first
        write(descriptors[1], b"1 2 3")
        second = kept.read()
        assert second == ([5_000_000, 20, 7], [1, 2, 3])
        assert second[0] is first[0]


@pytest.mark.parametrize("kind", both(), ids=["Python", "C"])
@pytest.mark.parametrize(
    ("layout", "text", "said"),
    [
        (Layout.TEXT, b"a\0b", b"a\0b"),
        (Layout.TEXT, b"x" * (READ_BYTES + 1), b"x" * READ_BYTES),
        (Layout.NUMBERS, b"18446744073709551616 9999999999999999999 0", [2**64, 10**19 - 1, 0]),
        (Layout.PAIRS, b"a 1\nb 2\na 3\ncut", {b"a": 3, b"b": 2}),
        (Layout.TOTALS, b"some avg10=0.00 total=5\nfull total=6\n", [5, 6]),
        (Layout.SCHEDSTAT, SCHEDSTAT, ((5_000_000,), (20,))),
        (Layout.STAT, b"1 (a) b) S" + b" %d" * 24 % (*range(1, 25),), (b"S", 7, 9, 17, 21)),
    ],
)
def test_layouts(kind: type[PlainKept], layout: Layout, text: bytes, said: Parsed):
    """Each layout makes of a text what it says."""
    with files(1) as descriptors:
        write(descriptors[0], text)
        assert kind(descriptors, layout).read() == (said,)


@pytest.mark.parametrize("kind", both(), ids=["Python", "C"])
def test_neighbouring_threads_are_one_value(kind: type[PlainKept]):
    """Their spans come as two tuples, the same objects as long as no thread has run."""
    with files(5) as descriptors:
        for at, descriptor in enumerate(descriptors):
            write(descriptor, b"%d %d 7\n" % (at, at + 10))
        kept = kind(descriptors, "ccncc")
        first = kept.read()
        assert first == (((0, 1), (10, 11)), [2, 12, 7], ((3, 4), (13, 14)))
        write(descriptors[4], b"5 14 8\n")
        second = kept.read()
        assert second[2] == ((3, 5), (13, 14))
        assert [a is b for a, b in zip(first, second, strict=True)] == [True, True, False]


@pytest.mark.parametrize("kind", both(), ids=["Python", "C"])
@pytest.mark.parametrize("text", [b"1 a", b"-1", b"1_0", b"1\x002", b"9" * 5000, "1\xa0".encode()])
def test_no_number_is_an_error_once_it_is_there(kind: type[PlainKept], text: bytes):
    """What is no number is a ValueError; what follows in its place is read."""
    with files(2) as descriptors:
        write(descriptors[0], SCHEDSTAT)
        kept = kind(descriptors, "nn")
        kept.read()
        write(descriptors[1], text)
        for _ in range(2):
            with pytest.raises(ValueError):  # noqa: PT011 - its text is nobody's business
                kept.read()
        write(descriptors[1], b"4")
        assert kept.read() == ([5_000_000, 20, 7], [4])


@pytest.mark.parametrize("kind", both(), ids=["Python", "C"])
def test_a_process_that_has_ended(kind: type[PlainKept]):
    """Its files give ESRCH through descriptors that are kept, and the others are not mixed up."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    descriptor = os.open(f"/proc/{child.pid}/stat", os.O_RDONLY)
    try:
        kept = kind([descriptor], Layout.STAT)
        ((state, *_),) = kept.read()
        assert state in (b"S", b"R", b"D")
        child.communicate(b"\n", timeout=60)
        with pytest.raises(ProcessLookupError) as caught:
            kept.read()
        assert caught.value.errno == errno.ESRCH
    finally:
        os.close(descriptor)
        child.kill()
        child.wait()


@pytest.mark.parametrize("kind", both(), ids=["Python", "C"])
def test_what_cannot_be_read(kind: type[PlainKept], tmp_path: Path):
    """A closed descriptor, a directory and a pipe are OSErrors with the kernel's number."""
    folder = os.open(tmp_path, os.O_RDONLY)
    reading, writing = os.pipe()
    closed = os.dup(folder)
    os.close(closed)
    try:
        found = [outcome(kind([each], "t")) for each in (folder, reading, closed)]
    finally:
        for each in (folder, reading, writing):
            os.close(each)
    assert found == [
        f"IsADirectoryError {errno.EISDIR}",
        f"OSError {errno.ESPIPE}",
        f"OSError {errno.EBADF}",
    ]


@pytest.mark.parametrize("kind", both(), ids=["Python", "C"])
@pytest.mark.parametrize(
    ("descriptors", "layouts"), [([0], ""), ([], "t"), ([0], "?"), ([0], "\0"), ([-1], "t")]
)
def test_what_is_no_set_of_files(kind: type[PlainKept], descriptors: list[int], layouts: str):
    """A file without a layout, an unknown layout and a negative descriptor are refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - a fault of the caller, whatever it says
        kind(descriptors, layouts)


def test_two_threads_do_not_read_the_same_files_at_once():
    """The library refuses what would have two threads write to one buffer; no value is mixed up."""
    with files(40) as descriptors:
        kept = native().Kept(descriptors, "n" * len(descriptors))
        refused: list[RuntimeError] = []
        wrong: list[object] = []

        def read() -> None:
            for _ in range(300):
                try:
                    values = kept.read()
                except RuntimeError as error:
                    refused.append(error)
                else:
                    wrong.extend(value for value in values if value not in ([], [1, 2, 3]))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            for descriptor in descriptors:
                os.pwrite(descriptor, b"1 2 3", 0)
        for thread in threads:
            thread.join()
        assert not wrong
        assert all("another thread" in str(error) for error in refused)


@pytest.mark.parametrize("kind", both(), ids=["Python", "C"])
def test_no_file_is_nothing(kind: type[PlainKept]):
    """Without files nothing is read."""
    kept = kind([], "")
    assert kept.read() == ()
    assert kept.read() is kept.read()
