"""Disks, interfaces and fields that are left out for everybody."""

from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from virtstatd.catalog import load
from virtstatd.formats.naming import metric_name
from virtstatd.model import Batch, Reading
from virtstatd.pipeline.sieve import Sieve, Unwanted
from virtstatd.testing import make_domain


CATALOG = load()
TARGETS = ("vda", "vdb", "sda", "vnet0", "vnet1")
SHAPES = (
    CATALOG.shape("domain", [("disk", {"target_device": each}) for each in TARGETS[:3]]),
    CATALOG.shape("domain", [("nic", {"target_device": each}) for each in TARGETS[3:]]),
    CATALOG.shape("domain", [("limit_read_bytes", {"target_device": "vda"})]),
    CATALOG.shape("state", [("state", {"state": "running", "state_desc": "x"})]),
    CATALOG.shape("agent", [("domains", ())]),
)
NAMES = sorted({metric_name(series.field) for shape in SHAPES for series in shape.series})
globs = st.lists(st.sampled_from(["vd*", "vda", "vnet?", "*", "none"]), max_size=2)
names = st.lists(st.sampled_from([*NAMES, "*info*", "libvirt_*", "nothing"]), max_size=2)


def wanted(include: list[str], exclude: list[str], text: str) -> bool:
    """Decide as the options say."""
    return (not include or any(fnmatchcase(text, each) for each in include)) and not any(
        fnmatchcase(text, each) for each in exclude
    )


@given(disks=st.tuples(globs, globs), nics=st.tuples(globs, globs), fields=st.tuples(names, names))
def test_what_is_wanted_goes_on_and_nothing_else(
    disks: tuple[list[str], list[str]],
    nics: tuple[list[str], list[str]],
    fields: tuple[list[str], list[str]],
):
    """Each number of a wanted device and field, in order, and always the agent's own."""
    out: list[Batch] = []
    unwanted = Unwanted(
        include_disks=disks[0],
        exclude_disks=disks[1],
        include_nics=nics[0],
        exclude_nics=nics[1],
        include_fields=fields[0],
        exclude_fields=fields[1],
    )
    readings = tuple(
        Reading(make_domain(0), shape, tuple(range(len(shape.series)))) for shape in SHAPES
    )
    groups = frozenset({"domain", "state"})
    Sieve(unwanted, metric_name, [out.append, out.append])(Batch("x", 1, readings, groups))

    def stays(reading: Reading, at: int) -> bool:
        series = reading.shape.series[at]
        name, target = metric_name(series.field), dict(series.labels).get("target_device")
        of_disk = "_block_" in name
        rules = disks if of_disk else nics
        device = target is None or wanted(*rules, target)
        return name.startswith("virtstatd_") or (wanted(*fields, name) and device)

    expected = [
        (series, value)
        for reading in readings
        for value, series in enumerate(reading.shape.series)
        if stays(reading, value)
    ]
    first, second = out
    assert first is second
    assert first.groups == groups, "what is left out ends"
    assert [
        each
        for reading in first.readings
        for each in zip(reading.shape.series, reading.values, strict=True)
    ] == expected
