"""Texts that a file of the kernel may hold, or that nobody would expect in one."""

from __future__ import annotations

from hypothesis import strategies as st

from virtstatd._fast.plain import READ_BYTES


NUMBERS = st.one_of(
    st.integers(0, 99),
    st.integers(0, 2**64 + 9),
    st.sampled_from([10**18, 10**19 - 1, 10**19, 2**63, 2**64 - 1, 2**64, 10**4299, 10**4300]),
).map(lambda number: str(number).encode() if number < 10**4000 else b"9" * (4299 + number % 3))
"""Also beyond 64 bits, and longer than Python reads as a number."""

WORDS = st.one_of(
    NUMBERS,
    NUMBERS.map(lambda number: b"000" + number),
    NUMBERS.map(lambda number: b"total=" + number),
    st.sampled_from(
        [
            b"usage_usec",
            b"total=",
            b"some",
            b"(qemu)",
            b")",
            b"S",
            b"-1",
            b"+1",
            b"1_0",
            b"0x1",
            b"1.",
        ]
    ),
    st.binary(max_size=6),
)
SPACES = st.sampled_from(
    [b" ", b"\n", b"\t", b"  ", b"\r\n", b"\x0b", b"\x0c", b"\0", b"\x1c", b"\xa0"]
)

SCHEDSTAT = st.lists(NUMBERS, min_size=3, max_size=3).map(lambda row: b" ".join(row) + b"\n")
FLAT = st.lists(st.tuples(st.sampled_from([b"a", b"nr_periods", b"b_usec"]), NUMBERS)).map(
    lambda rows: b"".join(b"%b %b\n" % row for row in rows)
)
PRESSURE = st.lists(NUMBERS, max_size=2).map(
    lambda rows: b"".join(b"some avg10=0.00 total=%b\n" % row for row in rows)
)
STAT = st.tuples(st.binary(max_size=20), st.lists(NUMBERS, min_size=18, max_size=30)).map(
    lambda parts: b"7 (%b) S %b\n" % (parts[0], b" ".join(parts[1]))
)
MIXED = st.lists(st.tuples(WORDS, SPACES), max_size=40).map(
    lambda parts: b"".join(word + space for word, space in parts)
)
HUGE = st.tuples(WORDS, SPACES, st.integers(0, 9)).map(
    lambda parts: ((parts[0] + parts[1]) * READ_BYTES)[: READ_BYTES - 5 + parts[2]]
)
"""As long as what is read of a file, and a little shorter and longer."""


@st.composite
def _cut(draw: st.DrawFn) -> bytes:
    text = draw(st.one_of(SCHEDSTAT, FLAT, PRESSURE, STAT))
    return text[: draw(st.integers(0, len(text)))]


@st.composite
def _changed(draw: st.DrawFn) -> bytes:
    text = bytearray(draw(st.one_of(SCHEDSTAT, FLAT, PRESSURE, STAT)))
    for _ in range(draw(st.integers(0, 3))):
        if text:
            text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text)


TEXTS = st.one_of(
    SCHEDSTAT, FLAT, PRESSURE, STAT, MIXED, HUGE, _cut(), _changed(), st.binary(max_size=60)
)
