"""Records in libvirt's own structures, made by tests, and what the code in Python makes of them."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import strategies as st

from virtstatd._fast.records import Libvirt, Records
from virtstatd.catalog import shipped
from virtstatd.catalog.decode import Decoder
from virtstatd.catalog.taking import Taker
from virtstatd.model import Domain, Reading


SOURCE = Path(__file__).with_name("fake_libvirt.c")
UUID = "11111111-1111-4111-8111-111111111111"
DOMAIN = Domain(UUID, "vm", 7, (("domain", "vm"),))


class Type(IntEnum):
    """Libvirt's `VIR_TYPED_PARAM_*`."""

    INT = 1
    UINT = 2
    LLONG = 3
    ULLONG = 4
    DOUBLE = 5
    BOOLEAN = 6
    STRING = 7


CODES = {
    Type.INT: "i",
    Type.UINT: "I",
    Type.LLONG: "q",
    Type.ULLONG: "Q",
    Type.DOUBLE: "d",
    Type.BOOLEAN: "b",
}

TypedValue = int | float | bytes | None
Row = tuple[bytes, int, TypedValue]
"""A field, its type, and its value as C has it; of an unknown type 0."""


class FakeLibvirt:
    """A libvirt that answers with what it was given."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._library = library

    def give(self, rows: Sequence[Row], uuid: str = UUID, name: bytes | None = b"vm") -> None:
        """Add a record to the next answer."""
        self._library.fake_record(uuid.encode(), name, 7)
        for field, kind, value in rows:
            text = value if isinstance(value, bytes) else None
            code = CODES.get(Type(kind)) if kind in list(Type) else None
            raw = struct.pack(f"={code}", value).ljust(8, b"\0") if code else bytes(8)
            self._library.fake_parameter(field[:80].ljust(80, b"\0"), kind, raw, text)

    def __getitem__(self, name: str) -> int:
        """Return a variable."""
        return ctypes.c_int.in_dll(self._library, f"fake_{name}").value

    def __setitem__(self, name: str, value: int) -> None:
        """Set a variable."""
        ctypes.c_int.in_dll(self._library, f"fake_{name}").value = value


@cache
def fake() -> FakeLibvirt:
    """Return a libvirt of made-up records, loaded under a name of its own."""
    with tempfile.TemporaryDirectory(prefix="virtstatd-") as folder:
        target = Path(folder) / "fake.so"
        command = ["cc", "-shared", "-fPIC", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([*command, str(SOURCE), f"-Wl,-soname,{target}", "-o", target], check=True)
        return FakeLibvirt(ctypes.CDLL(str(target)), str(target))


@contextmanager
def answered(libvirt: Libvirt, *records: Sequence[Row]) -> Iterator[Records]:
    """Have libvirt answer with these records."""
    for rows in records:
        fake().give(rows)
    found = libvirt.all(1, 0, 0)
    assert found is not None
    try:
        yield found
    finally:
        found.free()


def as_binding(rows: Sequence[Row]) -> dict[str, Any] | type[Exception]:
    """Return what libvirt-python makes of a record, by its `getPyVirTypedParameter`."""
    record: dict[str, Any] = {}
    try:
        for field, kind, value in rows:
            made: Any = value
            if kind not in list(Type):
                return LookupError
            if kind == Type.UINT:
                made = ctypes.c_int(made).value
            elif kind == Type.BOOLEAN:
                made = bool(value)
            elif isinstance(value, bytes):
                made = value.partition(b"\0")[0].decode()
            record[field[:80].partition(b"\0")[0].decode()] = made
    except UnicodeDecodeError:
        return UnicodeDecodeError
    return record


def as_libvirt(record: dict[str, Any]) -> list[Row]:
    """Return a record of the binding in libvirt's types, as far as these can be seen in it."""
    rows: list[Row] = []
    for at, (key, value) in enumerate(record.items()):
        if isinstance(value, str):
            rows.append((key.encode(), Type.STRING, value.encode()))
        elif isinstance(value, bool):
            rows.append((key.encode(), Type.BOOLEAN, value))
        elif isinstance(value, float):
            rows.append((key.encode(), Type.DOUBLE, value))
        elif value < 0:
            rows.append((key.encode(), Type.LLONG, value))
        else:
            kinds = [Type.ULLONG, Type.LLONG, Type.UINT, Type.INT]
            kind = kinds[at % len(kinds)] if value < 2**31 else Type.ULLONG
            rows.append((key.encode(), kind, value))
    return rows


def shown(readings: Sequence[Reading]) -> str:
    """Return series, and numbers with their types, as text that can be compared."""
    return "\n".join(f"{each.shape.group} {each.shape.series} {each.values!r}" for each in readings)


class Both:
    """A guest's records, by the library in C and by the code in Python, one after another."""

    def __init__(self, library: ModuleType) -> None:
        self.libvirt: Libvirt = library.Libvirt(fake().name)
        self.unknown: tuple[list[str], list[str]] = [], []
        self._plain = Decoder(shipped(), self.unknown[0].append)
        self._beside = Decoder(shipped(), self.unknown[1].append)
        self.taken = 0
        self._taker = Taker(self._beside, library.Take)

    def compare(self, rows: Sequence[Row]) -> None:
        """Fail where readings, faults, keys or exceptions are not alike."""
        expected = as_binding(rows)
        with answered(self.libvirt, rows) as records:
            if not isinstance(expected, dict):
                with pytest.raises(expected):
                    self._taker.sound(DOMAIN, records, 0)
                return
            readings, fault, keys = self._taker.sound(DOMAIN, records, 0)
            self.taken += not isinstance(keys, dict)
            assert repr(records.dictionary(0)) == repr(expected)
            plain, plain_fault = self._plain.sound(DOMAIN, expected)
            assert shown(readings) == shown(plain)
            assert fault == plain_fault
            assert set(keys) == set(expected)
            assert self.unknown[0] == self.unknown[1]


_NUMBERS = {
    Type.INT: st.integers(-(2**31), 2**31 - 1) | st.integers(0, 9),
    Type.UINT: st.integers(0, 2**32 - 1) | st.sampled_from([2**31 - 1, 2**31]),
    Type.LLONG: st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9),
    Type.ULLONG: st.integers(0, 2**64 - 1) | st.sampled_from([2**63 - 1, 2**63, 2**54, 2**60]),
    Type.DOUBLE: st.floats(),
    Type.BOOLEAN: st.integers(0, 127),
    Type.STRING: st.none() | st.binary(max_size=5) | st.sampled_from([b"vda", b"tap0", b"0"]),
}
_FIELDS = st.sampled_from(
    [
        *(b"state.state", b"state.reason", b"cpu.time", b"balloon.current", b"balloon.rss"),
        *(b"cpu.cache.monitor.count", b"vcpu.current", b"vcpu.0.state", b"vcpu.0.time"),
        *(b"vcpu.0.halted", b"vcpu.0.wait", b"net.count", b"net.0.name", b"net.0.rx.bytes"),
        *(b"block.count", b"block.0.name", b"block.0.path", b"block.0.rd.reqs", b"block.1.name"),
        *(b"block.0.latency_histogram.read.bin.count", b"block.0.threshold", b"made.up", b"x"),
        *(b"block.0.latency_histogram.read.bin.0.start", b"perf.cmt", b"dirtyrate.calc_status"),
        *(b"block.0.latency_histogram.read.bin.0.value", b"iothread.1.poll-max-ns"),
        *(b"block.0.latency_histogram.read.bin.1.start", b"vm.remote_tlb_flush.sum"),
        *(b"block.0.latency_histogram.read.bin.1.value", b"vm.halt_poll_invalid.sum"),
    ]
) | st.binary(max_size=90)
_TYPES = st.sampled_from(list(Type))
_ROW: st.SearchStrategy[Row] = st.tuples(_FIELDS, _TYPES).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), _NUMBERS[pair[1]])
) | st.tuples(_FIELDS, st.sampled_from([0, 8, -1, 1 << 20]), st.just(0))

TakeCase = list[list[Row]]


@st.composite
def _case(draw: st.DrawFn) -> TakeCase:
    """Draw a record, and the same with some other values, rows or names."""
    rows = draw(st.lists(_ROW, max_size=12))
    steps = [rows, rows]
    for _ in range(draw(st.integers(1, 6))):
        rows = list(rows)
        for _ in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(rows)))
            new = draw(_ROW)
            if at < len(rows) and (kind := rows[at][1]) in list(Type) and draw(st.booleans()):
                new = rows[at][0], kind, draw(_NUMBERS[Type(kind)])
            rows[at : at + draw(st.integers(0, 1))] = [new]
        steps += [rows, rows]
    return steps


TAKE_CASES = _case()


def compare_take(library: ModuleType, case: TakeCase) -> None:
    """Fail where the library in C and the code in Python differ on any of these records."""
    both = Both(library)
    for rows in case:
        both.compare(rows)
    assert fake()["live"] == 0
