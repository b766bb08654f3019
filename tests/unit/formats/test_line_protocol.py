"""Line protocol, read back: every number under its tags, whatever the names are."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.wire.influx import carried, of_guests, parsed, wanted
from virtstatd.formats import line_protocol
from virtstatd.formats.line_protocol import LineProtocol
from virtstatd.formats.numbers import NumberTemplate
from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape
from virtstatd.testing import TAKEN_AT, hostile_batch, make_batch


def encoded(batch: Batch) -> bytes:
    """Return the lines of a batch."""
    lines = LineProtocol("libvirt_", (("host", "n1"),))
    return b"".join(lines.encode(reading, TAKEN_AT) for reading in batch.readings)


@pytest.mark.parametrize(
    "batch", [make_batch(20), of_guests(hostile_batch())], ids=["plain", "hostile"]
)
def test_every_value_is_read_back(batch: Batch):
    """Every number that a database can hold is there once, exact, under the device's name."""
    rows, times = parsed(encoded(batch))
    assert rows == wanted(batch.readings, host="n1")
    assert times == {TAKEN_AT}


def test_one_by_one_the_lines_are_the_same():
    """For datagrams the same lines come apart between lines and nowhere else."""
    lines = LineProtocol("libvirt_", ())
    for reading in hostile_batch().readings:
        apart = lines.lines(reading, TAKEN_AT)
        assert b"".join(apart) == lines.encode(reading, TAKEN_AT)
        assert all(len(parsed(line)[0]) == 1 for line in apart)


@given(
    name=st.text(st.characters(codec=None), min_size=1),
    device=st.text(st.sampled_from('ab\\,= \n"\0\1%')),
    path=st.text(st.characters(codec=None), min_size=1),
    value=st.one_of(st.integers(-(2**63), 2**64), st.floats(), st.booleans()),
    exponent=st.sampled_from([0, -9, 3]),
)
def test_no_name_can_break_out(name: str, device: str, path: str, value: float, exponent: int):
    """Whatever names and paths are, no line, tag or field is forged; texts are exact."""
    gauge = Field("a", "b", Kind.GAUGE, "", "", exponent)
    shape = Shape(
        "g",
        (
            Series(gauge, (("target_device", device),)),
            Series(Field("a", "c", Kind.INFO, "", ""), (("path", path),)),
            Series(Field("a", "d", Kind.GAUGE, "", "")),
        ),
    )
    guest = Domain("u", name, 1, (("domain", name),))
    (rows, _) = parsed(LineProtocol("", ()).encode(Reading(guest, shape, (value, 1, 5)), 7))
    domain = ("domain", carried(name))
    others = {key[1]: fields for key, fields in rows.items()}
    alone = others[frozenset({domain})]
    assert alone.pop("a_d") == 5
    text = path.encode("utf-8", "backslashreplace").decode()
    marks = str.maketrans(dict.fromkeys("\0\1\2", "\ufffd"))
    assert alone.pop("a_c_info_path") == text.translate(marks)
    device = carried(device).translate(marks)
    tags = {domain, ("target_device", device)} if device else {domain}
    if math.isfinite(value):
        assert "a_b" in others[frozenset(tags)]
    else:
        assert sum(len(fields) for fields in others.values()) == 0


def test_what_is_left_out_comes_back():
    """A number that was infinite once is there again when it is finite."""
    shape = Shape("g", tuple(Series(Field("a", n, Kind.GAUGE, "", "")) for n in "bc"))
    lines = LineProtocol("", ())
    for values in ((1.5, math.nan), (2.5, 3.5), (math.inf, 4), (math.nan, math.inf), (1, 2)):
        text = lines.encode(Reading(None, shape, values), 7)
        fields = {
            f"a_{name}": value
            for name, value in zip("bc", values, strict=True)
            if math.isfinite(value)
        }
        assert parsed(text)[0] == ({("g", frozenset()): fields} if fields else {})


def test_a_number_that_is_none_compiles_nothing(monkeypatch: pytest.MonkeyPatch):
    """Whatever numbers a shape's readings lack, its template is compiled once."""
    compiled: list[object] = []

    def counted(shape: Shape, prefix: str, common: dict[str, str]) -> NumberTemplate:
        compiled.append(shape)
        return template(shape, prefix, common)

    template = line_protocol._template
    monkeypatch.setattr(line_protocol, "_template", counted)
    encoder = LineProtocol("libvirt_", ())
    reading = make_batch(1).readings[0]
    for place in range(len(reading.values)):
        values = [*map(float, reading.values)]
        values[place] = math.nan
        encoder.encode(replace(reading, values=tuple(values)), 0)
    assert len(compiled) == 1


def test_a_tag_that_a_series_has_itself_is_there_once():
    """Of a tag of the configuration and one of the series or the guest the latter stands."""
    field = Field("a", "b", Kind.GAUGE, "", "")
    shape = Shape("g", (Series(field, (("state", "running"),)), Series(field, (("vcpu", "0"),))))
    guest = Domain("u", "n", 1, (("domain", "web"), ("project", "own")))
    common = (("host", "n1"), ("state", "bavaria"), ("project", "all"), ("zone", "z"))
    lines = LineProtocol("", common)
    for domain, project in ((guest, "own"), (None, "all")):
        text = lines.encode(Reading(domain, shape, (1, 2)), 7).decode()
        found = [
            dict(tag.split("=") for tag in line.split(" ")[0].split(",")[1:])
            for line in text.splitlines()
        ]
        whose = {"domain": "web"} if domain else {}
        both = {"host": "n1", "project": project, "zone": "z", **whose}
        assert found == [{**both, "state": "running"}, {**both, "state": "bavaria", "vcpu": "0"}]
        assert text.count("project=") == text.count("zone=") == 2
