"""The lines of JSON: what they hold, and that they hold it exactly."""

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtstatd.formats.json_lines import Lines, timestamp
from virtstatd.formats.naming import DEVICES, canonical
from virtstatd.model import Batch, Domain, Field, Kind, Number, Reading, Series, Shape
from virtstatd.testing import TAKEN_AT, hostile_batch, make_batch, make_domain, make_shapes


GAUGE = Field("p", "gauge", Kind.GAUGE, "", "Help.")
INFO = Field("p", "info", Kind.INFO, "", "Help.")
NANOSECONDS = Field("p", "time", Kind.COUNTER, "seconds", "Help.", -9)


def written(batch: Batch) -> list[dict[str, Any]]:
    """Return the objects of a batch, numbers as exact decimals, by a strict reader."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = b"".join(Lines().pieces(batch)).decode("ascii")
    assert text.endswith("\n") or not text
    return [
        json.loads(line, parse_int=Decimal, parse_float=Decimal, parse_constant=refuse)
        for line in text.splitlines()
    ]


def one(
    *series: Series, values: tuple[Number, ...], domain: Domain | None = None
) -> list[dict[str, Any]]:
    """Return the objects of a single reading."""
    return written(Batch("s", TAKEN_AT, (Reading(domain, Shape("g", series), values),)))


def leaves(batch: Batch) -> list[tuple[Any, ...]]:
    """Return where each number of a batch must be, and the number."""
    found = []
    for reading in batch.readings:
        domain = reading.domain.name if reading.domain else None
        for series, value in zip(reading.shape.series, reading.values, strict=True):
            device = tuple(pair for pair in series.labels if pair[0] in DEVICES)
            rest = [text for key, text in series.labels if key not in DEVICES and key != "le"]
            field = series.field
            name = field.family.removeprefix(f"{field.prefix}_")
            if field.kind is Kind.INFO:
                continue
            if series.part == "bucket":
                path = [name, *rest, "buckets", canonical(series.labels[-1][1])]
            else:
                path = [name, *rest, *filter(None, [series.part])]
            exponent = field.exponent if series.part in ("", "sum") else 0
            exact = None
            if math.isfinite(value):
                exact = Decimal(repr(value + 0)).scaleb(exponent)
            found.append((domain, reading.shape.group, device, path, exact))
    return found


@pytest.mark.parametrize("batch", [make_batch(5), hostile_batch()], ids=["plain", "hostile"])
def test_every_number_is_in_its_place(batch: Batch):
    """Each number is found exactly, under its domain, group, device, field and labels."""
    objects = {}
    for each in written(batch):
        key = each.get("domain"), each["group"], tuple(each.get("device", {}).items())
        assert key not in objects
        objects[key] = each
    for domain, group, device, path, exact in leaves(batch):
        name = None if domain is None else domain.encode("utf-8", "backslashreplace").decode()
        node = objects[name, group, device]["fields"]
        for step in path:
            node = node[step]
        assert node == exact


@given(
    name=st.text(st.characters(codec=None)),
    device=st.text(st.characters(codec=None)),
    key=st.text(st.characters(codec=None)),
    value=st.one_of(st.integers(-(2**63), 2**64), st.floats(), st.booleans()),
)
def test_no_text_can_break_out(name: str, device: str, key: str, value: Number):
    """Whatever names are, a line is one object, in ASCII, that gives them back."""
    labels = (("target_device", device), ("key", key))
    domain = Domain("u", name, 1, (("domain", name), ("extra", key)))
    (found,) = one(Series(GAUGE, labels), values=(value,), domain=domain)
    visible = [text.encode("utf-8", "backslashreplace").decode() for text in (name, device, key)]
    assert found["domain"] == visible[0]
    assert found["device"] == {"target_device": visible[1]}
    assert found["labels"] == {"extra": visible[2]}
    # a key is a label of the shape's, which is hostile only where libvirt's names are
    assert list(found["fields"]["gauge"].values()) == [
        Decimal(repr(value + 0)) if math.isfinite(value) else None
    ]


def test_what_belongs_to_the_host_has_no_domain():
    """A reading without a domain leaves out what only a domain has."""
    (found,) = one(Series(GAUGE), values=(1,))
    assert found == {
        "time": "2023-11-14T22:13:20.123456789Z",
        "source": "s",
        "group": "g",
        "fields": {"gauge": 1},
    }


def test_an_info_field_is_the_object_of_its_labels():
    """Strings are an object; more of one name get lines of their own, and none is lost."""
    labels = [(("target_device", "vda"), ("path", path)) for path in ("/a", "/b 100%")]
    found = one(
        Series(GAUGE, (("target_device", "vda"),)),
        *(Series(INFO, each) for each in labels),
        values=(7, 1, 1),
    )
    assert [each["fields"] for each in found] == [
        {"gauge": 7, "info": {"path": "/a"}},
        {"info": {"path": "/b 100%"}},
    ]
    assert all(each["device"] == {"target_device": "vda"} for each in found)


def test_labels_that_are_no_device_nest():
    """Other labels than the device's are levels of the object, in their order."""
    series = [Series(GAUGE, (("tier", tier), ("outcome", what))) for tier in "ab" for what in "xy"]
    (found,) = one(*series, values=(1, 2, 3, 4))
    assert found["fields"] == {"gauge": {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 4}}}


def test_with_and_without_a_label():
    """A field that is there with a label and without keeps both numbers."""
    (found,) = one(Series(GAUGE), Series(GAUGE, (("key", "k"),)), values=(1, 2))
    assert found["fields"] == {"gauge": {"": 1, "k": 2}}
    (found,) = one(Series(GAUGE, (("key", "k"),)), Series(GAUGE), values=(1, 2))
    assert found["fields"] == {"gauge": {"k": 1, "": 2}}


def test_equal_names_of_two_prefixes_are_told_apart():
    """Where a short name would be ambiguous, the long one is used."""
    other = Field("q", "gauge", Kind.GAUGE, "", "Help.")
    (found,) = one(Series(GAUGE), Series(other), values=(1, 2))
    assert found["fields"] == {"p_gauge": 1, "q_gauge": 2}


def test_nanoseconds_keep_their_digits():
    """A counter of nanoseconds is written in seconds without losing one."""
    (found,) = one(Series(NANOSECONDS), values=(9_223_372_036_854_775_807,))
    assert found["fields"] == {"time_seconds": Decimal("9223372036.854775807")}


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_700_000_000_999_999_999, "2023-11-14T22:13:20.999999999Z"),
        (4_102_444_800_000_000_000, "2100-01-01T00:00:00.000000000Z"),
    ],
)
def test_times(nanoseconds: int, text: str):
    """Times are RFC 3339 in UTC with nine digits, never rounded."""
    assert timestamp(nanoseconds) == text


def test_pieces_are_whole_lines():
    """A large batch comes in pieces that end with a line, and compile each shape once."""
    batch = make_batch([make_domain(each) for each in range(300)], shapes=make_shapes())
    lines = Lines()
    pieces = list(lines.pieces(batch))
    assert len(pieces) > 3
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert len(lines._templates) == len(make_shapes())
    assert list(lines.pieces(Batch("s", 0, ()))) == []
