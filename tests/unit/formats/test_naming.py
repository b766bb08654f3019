from __future__ import annotations

import pytest

from virtstatd.formats.naming import canonical, label_name, labels_of, name_of, visible
from virtstatd.model import Field, Kind, Series


FIELD = Field("libvirt_domain_block_stats", "latency", Kind.HISTOGRAM, "seconds", "Help.", -9)


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        ("0", "0.0"),
        ("1", "1.0"),
        ("10", "10.0"),
        ("0.001", "0.001"),
        ("1e-9", "1e-09"),
        ("100000", "100000.0"),
        ("1000000", "1e+06"),
        ("1234567.5", "1.2345675e+06"),
        ("1e10", "1e+10"),
        ("inf", "+Inf"),
        ("+Inf", "+Inf"),
    ],
)
def test_bounds_are_canonical(bound: str, text: str):
    """Bounds of buckets are spelled as OpenMetrics asks, so that both formats name one series."""
    assert canonical(bound) == text


@pytest.mark.parametrize(
    ("part", "name", "labels", "base", "exponent"),
    [
        ("bucket", "bucket", (("d", "vda"), ("le", "1e+06")), (("d", "vda"),), 0),
        ("sum", "sum", (("d", "vda"),), (("d", "vda"),), -9),
        ("count", "count", (("d", "vda"),), (("d", "vda"),), 0),
    ],
)
def test_parts_of_a_histogram(
    part: str,
    name: str,
    labels: tuple[tuple[str, str], ...],
    base: tuple[tuple[str, str], ...],
    exponent: int,
):
    """Parts are named for what they are, share their base labels, and only the sum has a unit."""
    own = (("d", "vda"), ("le", "1000000")) if part == "bucket" else (("d", "vda"),)
    series = Series(FIELD, own, part)
    assert name_of(series) == f"libvirt_domain_block_stats_latency_seconds_{name}"
    assert labels_of(series) == labels
    assert series.base_labels == base
    assert series.exponent == exponent


def test_texts_can_be_carried_by_utf_8():
    """A lone surrogate becomes visible, everything else stays; names of labels are plain."""
    assert visible("a\udce9\n\N{SNOWMAN}") == "a\\udce9\n\N{SNOWMAN}"
    assert label_name("n\N{SNOWMAN}m-e 1") == "n_m_e_1"
