"""Records in libvirt's own structures: the library in C does what binding and decoder do."""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import replace
from typing import Any

import libvirt
import pytest
from hypothesis import given

from support.native import native
from support.structures import (
    DOMAIN,
    TAKE_CASES,
    UUID,
    Both,
    Row,
    TakeCase,
    Type,
    answered,
    as_libvirt,
    compare_take,
    fake,
)
from unit.catalog.test_decode import GOLDEN, RECORDS
from virtstatd.catalog import shipped
from virtstatd.catalog.decode import Decoder
from virtstatd.catalog.taking import Taker


ROWS: list[Row] = [
    (b"state.state", Type.INT, 1),
    (b"state.reason", Type.INT, 1),
    (b"cpu.time", Type.ULLONG, 5),
    (b"balloon.current", Type.ULLONG, 1024),
    (b"vcpu.0.halted", Type.BOOLEAN, 1),
    (b"net.0.name", Type.STRING, b"tap0"),
    (b"net.0.rx.bytes", Type.ULLONG, 7),
]


def loaded() -> Any:
    """Return the functions of the made-up libvirt."""
    return native().Libvirt(fake().name)


def changed(key: bytes, value: object, kind: int | None = None) -> list[Row]:
    """Return the record with another value, and perhaps another type, under a key."""
    return [
        (field, each if kind is None else kind, value) if field == key else (field, each, former)  # type: ignore[misc]
        for field, each, former in ROWS
    ]


@given(TAKE_CASES)
def test_both_take_the_same_of_any_records(case: TakeCase):
    """Readings, faults and exceptions are alike, whatever a record turns into; all is freed."""
    compare_take(native(), case)


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_real_libvirts_are_taken_in_c(name: str):
    """After its first sight each recorded record is taken in C, with the same numbers."""
    record = json.loads((GOLDEN / "records" / f"{name}.json").read_text())
    both, rows = Both(native()), as_libvirt(record)
    for step in range(3):
        both.compare(rows)
        assert both.taken == step
        rows = [
            (key, kind, value + 1)
            if kind == Type.ULLONG and isinstance(value, int) and key.endswith(b".bytes")
            else (key, kind, value)
            for key, kind, value in rows
        ]
    both.compare(rows[:-1])
    both.compare(rows)
    assert both.taken == 3


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:-1],
        [*ROWS, (b"net.0.tx.bytes", Type.ULLONG, 1)],
        [*ROWS[:-1], (b"net.0.rx.pkts", Type.ULLONG, 7)],
        [*ROWS[:-1], (b"net.0.rx.byte", Type.ULLONG, 7)],
        [*ROWS[:-1], ROWS[0]],
        changed(b"net.0.name", b"tap1"),
        changed(b"net.0.name", b"tap\xff"),
        changed(b"net.0.name", None),
        changed(b"state.state", 3),
        changed(b"cpu.time", 5, Type.LLONG),
        changed(b"cpu.time", -5, Type.LLONG),
        changed(b"cpu.time", 2**31, Type.UINT),
        changed(b"cpu.time", math.nan, Type.DOUBLE),
        changed(b"cpu.time", math.inf, Type.DOUBLE),
        changed(b"cpu.time", b"5", Type.STRING),
        changed(b"cpu.time", 0, 8),
        changed(b"balloon.current", 2**64 - 1),
        changed(b"vcpu.0.halted", 1, Type.INT),
    ],
)
def test_what_deviates_is_left_to_the_decoder(rows: list[Row]):
    """A changed shape, a type, a value that needs a second look: the result is the decoder's."""
    both = Both(native())
    both.compare(ROWS)
    both.compare(ROWS)
    assert both.taken == 1
    both.compare(rows)
    assert both.taken == 1
    both.compare(ROWS)
    both.compare(ROWS)
    assert both.taken >= 2


def test_what_deviates_each_time_is_compiled_once():
    """A counter beyond 31 bits in an unsigned int is decoded, but no plan is made for each time."""
    made: list[object] = []

    def make(*plan: Any) -> Any:
        made.append(plan)
        return native().Take(*plan)

    taker = Taker(Decoder(shipped(), lambda _: None), make)
    for _ in range(5):
        with answered(loaded(), changed(b"cpu.time", 2**31 + 5, Type.UINT)) as records:
            (reading,) = (
                each for each in taker.sound(DOMAIN, records, 0)[0] if each.shape.group == "cpu"
            )
            assert reading.values == (2**31 + 5,)
    assert len(made) == 1
    for uuid in (DOMAIN.uuid, "another"):  # and once for guests that are built alike
        with answered(loaded(), ROWS) as records:
            taker.sound(replace(DOMAIN, uuid=uuid), records, 0)
    assert len(made) == 2
    taker.forget(DOMAIN.uuid)


def test_domains_and_records_of_an_answer():
    """Each record has its domain; what is not there is an error, also once all are freed."""
    other = "22222222-2222-4222-8222-222222222222"
    fake().give(ROWS)
    fake().give([], other, "zwölf".encode())
    records = loaded().of([1, 2], 3, 4)
    assert (fake()["asked"], fake()["bits"], fake()["flags"]) == (2, 3, 4)
    assert [records.identity(at) for at in range(len(records))] == [
        (UUID, "vm", 7),
        (other, "zwölf", 7),
    ]
    assert records.dictionary(1) == {}
    assert records.types(0) == [kind for _, kind, _ in ROWS]
    for at in (-1, 2):
        with pytest.raises(IndexError):
            records.identity(at)
    with pytest.raises(TypeError):
        records.dictionary("0")
    records.free()
    records.free()
    assert len(records) == 0
    with pytest.raises(IndexError):
        records.dictionary(0)


@pytest.mark.parametrize("name", [None, b"\xff"])
def test_a_domain_without_a_readable_name(name: bytes | None):
    """It is a ValueError, as in the binding, and nothing is left over."""
    fake().give(ROWS, name=name)
    records = loaded().all(1, 0, 0)
    with pytest.raises(ValueError):  # noqa: PT011 - the binding's has another text
        records.identity(0)
    del records
    assert fake()["live"] == 0


def test_an_error_and_an_answer_without_domains():
    """An error of libvirt is None; no domain is an answer without records."""
    fake()["fails"] = 1
    try:
        assert loaded().all(1, 0, 0) is None
        assert loaded().of([1], 0, 0) is None
    finally:
        fake()["fails"] = 0
    assert len(loaded().all(1, 0, 0)) == 0
    assert fake()["live"] == 0


@pytest.mark.parametrize("wrong", [[0], ["1"], [None], (1,), None])
def test_what_is_no_pointer(wrong: Any):
    """Nothing is asked for what is no list of domains."""
    with pytest.raises((TypeError, ValueError)):
        loaded().of(wrong, 0, 0)
    with pytest.raises((TypeError, ValueError)):
        loaded().all(wrong if wrong is None else 0, 0, 0)


def test_a_call_that_hangs_stops_nobody_else():
    """While libvirt does not answer, other threads run; a late answer nobody wants is freed."""
    pipes = [os.pipe(), os.pipe()]
    (reading, go), (entered, entering) = pipes
    fake()["wait"], fake()["entered"] = reading, entering
    fake().give(ROWS)
    thread = threading.Thread(target=lambda: loaded().all(1, 0, 0), daemon=True)
    try:
        thread.start()
        os.read(entered, 1)  # returns only where the call does not hold the interpreter
        assert thread.is_alive()
    finally:
        os.write(go, b"x")
        thread.join(60)
        fake()["wait"] = -1
        for each in (*pipes[0], *pipes[1]):
            os.close(each)
    assert not thread.is_alive()
    assert fake()["live"] == 0


def test_a_libvirt_of_another_layout_is_not_used():
    """Libvirt fills parameters itself when the library starts: what is read must be the same."""
    fake()["type_shift"] = 1
    try:
        with pytest.raises(OSError, match="layout"):
            loaded()
    finally:
        fake()["type_shift"] = 0
    with pytest.raises(OSError, match="not loaded"):
        native().Libvirt("libnone.so")


def test_the_bindings_own_connection():
    """Libvirt's own driver for tests gives the binding and the library the same record."""
    own = native().Libvirt("libvirt.so.0")
    connection = libvirt.open("test:///default")
    try:
        ((domain, record),) = connection.getAllDomainStats(0, 0)
        for records in (
            own.all(connection.c_pointer(), 0, 0),
            own.of([domain.c_pointer()], 0, 0),
        ):
            assert [records.dictionary(at) for at in range(len(records))] == [record]
            assert records.identity(0) == (domain.UUIDString(), domain.name(), domain.ID())
            records.free()
        domain = None
    finally:
        assert connection.close() == 0, "nothing holds the connection"


PLAN: tuple[Any, ...] = (b"\x04Q\x01a\x01?\x01b\x07?\x01c", (1, 2), (((0, 0, 0),),))
PLAN_ROWS: list[Row] = [
    (b"a", Type.ULLONG, 3),
    (b"b", Type.INT, 5),
    (b"c", Type.STRING, b"x"),
]
LAYOUTS = (
    *(b"\x04Q\x02a", b"\x04", b"\x08Q\x01a", b"\x04d\x01a", b"\x05?\x01a"),
    b"\x04Q\x50" + b"a" * 80,
)
FIXED = ((3,), (-1,), (2**63,), ("x",), (None,))
PICKS: tuple[Any, ...] = (
    *((each,) for each in (((3, 0, 0),), ((-2, 0, 0),), ((2, 0, 0),), ((-1, 1, 0),), ((1, 1, 0),))),
    *((1,), ((1,),), (((0, 4, 0),),), (((0, 0),),)),
)


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        *((0, each) for each in LAYOUTS),
        *((1, each) for each in FIXED),
        *((2, each) for each in PICKS),
        *((at, None) for at in range(3)),
    ],
)
def test_what_is_no_plan(at: int, wrong: object):
    """A plan with places, types or values that do not go together is refused."""
    plan = list(PLAN)
    plan[at] = wrong
    native().Take(*PLAN)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        native().Take(*plan)


def test_a_plan_takes_of_records_only():
    """What is no record, or has no expected values for the fixed places, is refused."""
    plan = native().Take(*PLAN)
    with answered(loaded(), PLAN_ROWS) as records:
        assert plan.take(records, 0, (5, "x")) == ((3,),)
        for other in ((6, "x"), (5, "y"), (2**64, "x")):
            assert plan.take(records, 0, other) is None
        for wrong in ((5,), (5, "x", 1), ("5", "x"), (5, 1), (5, None), [5, "x"], None):
            with pytest.raises((TypeError, ValueError)):
                plan.take(records, 0, wrong)
        with pytest.raises(IndexError):
            plan.take(records, 1, (5, "x"))
    with pytest.raises(TypeError):
        plan.take([], 0, (5, "x"))
