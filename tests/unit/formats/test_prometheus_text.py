"""The text format and OpenMetrics, checked by the parsers of others."""

import math
import subprocess
from collections.abc import Callable, Iterable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from support.servers import needs
from virtstatd.formats.prometheus_text import (
    END_OF_OPENMETRICS,
    Family,
    escape,
    label_text,
    text_template,
)
from virtstatd.model import Batch, Domain, Field, Kind, Number, Reading, Series, Shape
from virtstatd.testing import HOSTILE_NAMES, hostile_batch, make_batch, make_domain, make_shapes


Found = dict[tuple[str, frozenset[tuple[str, str]]], float]
Reader = Callable[[str], Iterable[Metric]]


def page(readings: Iterable[Reading], *, openmetrics: bool) -> str:
    """Assemble a page from readings whose domains differ."""
    blocks: dict[str, tuple[Family, list[bytes]]] = {}
    for reading in readings:
        labels = label_text(reading.domain.labels) if reading.domain else b""
        template = text_template(reading.shape, labelled=bool(labels))
        lines = template.render(reading.values, labels)
        for family, of_family in zip(template.families, lines, strict=True):
            blocks.setdefault(family.name, (family, []))[1].append(of_family)
    parts = []
    for family, lines in blocks.values():
        parts += [family.openmetrics if openmetrics else family.text, *lines]
    return b"".join([*parts, END_OF_OPENMETRICS if openmetrics else b""]).decode()


def expected(readings: Iterable[Reading]) -> Found:
    """Return what a reader must find: sample name and labels, and the exact number."""
    suffixes = {Kind.COUNTER: "_total", Kind.INFO: "_info"}
    found = {}
    for reading in readings:
        for series, given_value in zip(reading.shape.series, reading.values, strict=True):
            value = given_value
            field = series.field
            name = field.family.removesuffix("_info") if field.kind is Kind.INFO else field.family
            name += suffixes.get(field.kind, "") + (f"_{series.part}" if series.part else "")
            labels = dict(series.labels)
            if "le" in labels:
                labels["le"] = str(float(labels["le"])).replace("inf", "+Inf")
            if reading.domain:
                labels |= {key: visible(text) for key, text in reading.domain.labels}
            exponent = field.exponent if series.part in ("", "sum") else 0
            if not isinstance(value, float) or math.isfinite(value):
                value = float(Decimal(repr(value + 0)).scaleb(exponent))
            found[name, frozenset(labels.items())] = value
    return found


def visible(text: str) -> str:
    """Return a label's value as it arrives: what no page can carry is replaced."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").replace(
        "\1", "\N{REPLACEMENT CHARACTER}"
    )


def parsed(text: str, read: Reader) -> Found:
    """Return what a reader finds; a series that occurs twice is a fault."""
    found = {}
    for family in read(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = float(sample.value)  # the text parser gives integers as they are
    return found


def same(left: Found, right: Found) -> bool:
    """Compare what was found with what was wanted; NaN equals itself here."""
    return left.keys() == right.keys() and all(
        left[key] == right[key] or (math.isnan(left[key]) and math.isnan(right[key]))
        for key in left
    )


@pytest.mark.parametrize(
    ("openmetrics", "read"), [(False, read_text), (True, read_openmetrics)], ids=["text", "om"]
)
@pytest.mark.parametrize("batch", [make_batch(20), hostile_batch()], ids=["plain", "hostile"])
def test_every_value_is_read_back(batch: Batch, *, openmetrics: bool, read: Reader):
    """The official parsers find every series once, with its exact number, and nothing else."""
    found = parsed(page(batch.readings, openmetrics=openmetrics), read)
    assert len(found) == batch.samples
    assert same(found, expected(batch.readings))


@given(
    name=st.text(st.characters(codec=None)),
    device=st.text(st.characters(codec=None)),
    help_text=st.text(st.characters(codec=None)),
    value=st.one_of(st.integers(-(2**63), 2**64), st.floats(), st.booleans()),
    exponent=st.sampled_from([0, -9, -6, 3]),
)
def test_no_text_can_break_out_of_its_quotes(
    name: str, device: str, help_text: str, value: Number, exponent: int
):
    """Whatever a name, a device or a help text is, both parsers read one sample per series."""
    gauge = Field("a", "gauge", Kind.GAUGE, "", help_text, exponent)
    other = Field("a", "other", Kind.UNKNOWN, "", help_text)
    shape = Shape("a", (Series(gauge, (("device", device),)), Series(other)))
    domain = Domain("u", name, 1, (("domain", name),))
    readings = [Reading(domain, shape, (value, 1))]
    wanted = {
        (key, frozenset((label, visible(text)) for label, text in labels)): number
        for (key, labels), number in expected(readings).items()
    }
    for openmetrics, read in ((False, read_text), (True, read_openmetrics)):
        assert same(parsed(page(readings, openmetrics=openmetrics), read), wanted)


def test_names_become_valid():
    """A name from the outside that no page may have costs itself its spelling, not the page."""
    field = Field("libvirt-domain", "näme.x", Kind.COUNTER, "", "Help.")
    shape = Shape("odd", (Series(field, (("a-b", "1"),)),))
    text = page([Reading(None, shape, (1,))], openmetrics=False)
    assert 'libvirt_domain_n_me_x_total{a_b="1"} 1\n' in text
    assert len(parsed(text, read_text)) == 1


def test_nanoseconds_are_not_rounded():
    """A counter of nanoseconds keeps its nineteenth digit."""
    field = Field("cpu", "time", Kind.COUNTER, "seconds", "Help.", -9)
    text = page(
        [Reading(None, Shape("cpu", (Series(field),)), (9_223_372_036_854_775_807,))],
        openmetrics=True,
    )
    assert "cpu_time_seconds_total 9223372036.854775807\n" in text


def test_units_only_where_the_name_ends_with_them():
    """A `# UNIT` line that the name does not confirm would make the page invalid."""
    fields = [
        Field("a", "read", Kind.COUNTER, "bytes", "Help."),
        Field("b", "level", Kind.GAUGE, "", "Help."),
        Field("c", "info", Kind.INFO, "bytes", "Help."),
    ]
    readings = [Reading(None, Shape(each.name, (Series(each),)), (1,)) for each in fields]
    text = page(readings, openmetrics=True)
    assert [line for line in text.splitlines() if line.startswith("# UNIT")] == [
        "# UNIT a_read_bytes bytes"
    ]


def test_left_out_series_take_their_values_along():
    """A template without some series shows the others with their own numbers."""
    shape = next(each for each in make_shapes() if each.group == "block")
    values = tuple(range(len(shape.series)))
    whole = text_template(shape, labelled=False)
    names = {family.name for family in whole.families}
    claims = whole.claims(names)
    rest = text_template(shape, labelled=False, but=set(sorted(claims)[2:4]))
    all_lines = b"".join(whole.render(values, b"")).splitlines()
    lines = b"".join(rest.render(values, b"")).splitlines()
    assert set(lines) < set(all_lines)
    assert len(rest.claims(names)) == len(claims) - 2
    assert whole.claims({names.pop()}) < claims
    floats = b"".join(rest.render(tuple(map(float, values)), b"")).splitlines()
    assert [float(line.rsplit(b" ", 1)[1]) for line in floats] == pytest.approx(
        [float(line.rsplit(b" ", 1)[1]) for line in lines]
    )


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_escapes_stay_on_one_line(name: str):
    """No name leaves a raw newline, a raw quote or a marker of the template behind."""
    text = escape(name)
    assert not set(text) & {"\n", "\0", "\1"}
    assert '"' not in text.replace("\\\\", "").replace('\\"', "")


@needs("promtool")
def test_promtool_has_no_complaint():
    """Prometheus' own linter accepts names, help, types and samples without a word."""
    domains = [make_domain(number, name) for number, name in enumerate(HOSTILE_NAMES)]
    text = page(make_batch(domains).readings, openmetrics=False)
    result = subprocess.run(
        ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
