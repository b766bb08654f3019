"""Classes of options: what they accept, and how a fault reads."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from virtstatd.config.options import (
    Fault,
    build,
    faults_of_table,
    faults_of_value,
    nearest,
    options,
)


class Codec(enum.Enum):
    """An enumeration as an option."""

    ZSTD = "zstd"
    NONE = "none"


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """A table within a sink's table."""

    ca_file: Annotated[str, Meta(description="Where the authority's certificate is.")]
    port: Annotated[int, Meta(gt=0, lt=65536)] = 443


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A sink's options, with everything that the types can say."""

    url: Annotated[str, Meta(description="Where to.", min_length=1, pattern="^https?://")]
    share: Annotated[float, Meta(description="Which part.", gt=0, le=1)] = 0.5
    codec: Codec = Codec.ZSTD
    mode: Literal["fast", "safe"] = "safe"
    hosts: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=2)] = field(
        default_factory=list
    )
    headers: dict[str, str] = field(default_factory=dict)
    tls: Tls | None = None
    limit: int | None = None
    servers: tuple[Tls, ...] = ()
    delivery: ClassVar[str] = "memory"
    opened: int = field(default=0, init=False)


def said(table: dict[str, object]) -> list[str]:
    """Return the faults of a table as they are printed."""
    return [str(fault) for fault in faults_of_table(options(Remote), table, ("sink", 0))]


def test_options_are_the_fields_that_can_be_given() -> None:
    """Class variables and inner state are no options; descriptions and defaults are known."""
    known = {option.name: option for option in options(Remote)}
    assert "delivery" not in known
    assert "opened" not in known
    assert known["url"].required
    assert known["url"].description == "Where to."
    assert known["hosts"].default == []
    assert known["share"].default == 0.5


def test_a_class_that_is_neither_is_refused() -> None:
    """A plain class has no options to speak of and says so."""
    with pytest.raises(TypeError):
        options(object)


@pytest.mark.parametrize(
    ("table", "faults"),
    [
        ({"url": "http://x"}, []),
        ({}, ["sink[0].url: is missing and has no default"]),
        ({"url": ""}, ["sink[0].url: must not be empty"]),
        ({"url": "x"}, ["sink[0].url: must be of the form ^https?://, is 'x'"]),
        ({"url": ["secret"]}, ["sink[0].url: must be a string, is an array"]),
        ({"url": "http://x", "share": 0}, ["sink[0].share: must be more than 0, is 0"]),
        ({"url": "http://x", "share": 1.5}, ["sink[0].share: must be at most 1, is 1.5"]),
        ({"url": "http://x", "share": True}, ["sink[0].share: must be a number, is true"]),
        (
            {"url": "http://x", "codec": "zst"},
            ["sink[0].codec: unknown value 'zst', did you mean zstd?"],
        ),
        ({"url": "http://x", "codec": 1}, ["sink[0].codec: must be one of zstd, none, is 1"]),
        (
            {"url": "http://x", "mode": "slow"},
            ["sink[0].mode: unknown value 'slow', known: fast, safe"],
        ),
        (
            {"url": "http://x", "hosts": ["a", "", 3]},
            [
                "sink[0].hosts[1]: must not be empty",
                "sink[0].hosts[2]: must be a string, is 3",
            ],
        ),
        (
            {"url": "http://x", "hosts": ["a", "b", "c"]},
            ["sink[0].hosts: must have at most 2 elements, has 3"],
        ),
        (
            {"url": "http://x", "headers": {"a b": 1}},
            ["sink[0].headers.'a b': must be a string, is 1"],
        ),
        ({"url": "http://x", "limit": "x"}, ["sink[0].limit: must be a whole number, is a string"]),
        (
            {"url": "http://x", "tls": {"port": 0, "cafile": "x"}},
            [
                "sink[0].tls.port: must be more than 0, is 0",
                "sink[0].tls.cafile: unknown option, did you mean ca_file?",
                "sink[0].tls.ca_file: is missing and has no default",
            ],
        ),
        (
            {"url": "http://x", "servers": [{"ca_file": "x"}, {"ca_file": "x", "port": 65536}]},
            ["sink[0].servers[1].port: must be less than 65536, is 65536"],
        ),
        ({"url": "http://x", "opened": 1}, ["sink[0].opened: unknown option"]),
    ],
)
def test_each_fault_is_said_in_the_words_of_the_file(
    table: dict[str, object], faults: list[str]
) -> None:
    """Every kind of option reports its faults, down to elements and inner tables."""
    assert [each.split(", known: url")[0] for each in said(table)] == faults


def test_what_has_no_fault_is_built() -> None:
    """A table without faults becomes the object, inner tables and enumerations included."""
    table: dict[str, object] = {
        "url": "http://x",
        "share": 1,
        "codec": "none",
        "hosts": ["a"],
        "tls": {"ca_file": "ca.pem"},
        "servers": [{"ca_file": "x"}],
    }
    assert not said(table)
    built = build(Remote, table)
    assert built == Remote(
        url="http://x",
        share=1.0,
        codec=Codec.NONE,
        hosts=["a"],
        tls=Tls(ca_file="ca.pem"),
        servers=(Tls(ca_file="x"),),
    )
    assert isinstance(built.share, float)


VALUES: st.SearchStrategy[object] = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from([option.name for option in options(Remote)]) | st.text(), VALUES, max_size=4
    )
)
def test_whatever_a_file_holds_it_is_built_or_explained(table: dict[str, object]) -> None:
    """Any value at all either has a printable fault or becomes the object; nothing else."""
    faults = said(table)
    assert all(fault.isprintable() for fault in faults)
    if not faults:
        build(Remote, table)


def test_a_secret_of_the_wrong_type_is_not_shown() -> None:
    """Text and tables that stand where something else belongs are named, not quoted."""
    for value in ("hunter2", ["hunter2"], {"a": "hunter2"}):
        faults = list(faults_of_value(int, value, ("token",)))
        assert len(faults) == 1
        assert "hunter2" not in str(faults[0])


def test_the_nearest_name_is_offered() -> None:
    """A near name is offered, whatever its case or dashes; without one all are listed."""
    known = ("interval_seconds", "groups")
    assert nearest("Interval-Seconds", known) == ", did you mean interval_seconds?"
    assert nearest("interval", known) == ", did you mean interval_seconds?"
    assert nearest("zzz", known) == ", known: interval_seconds, groups"
    assert nearest("zzz", ()) == ""


def test_a_hostile_name_is_quoted_in_its_path() -> None:
    """A key with control characters or dots comes out quoted and escaped."""
    fault = Fault(("labels", "a.b\x1b", 3), "wrong")
    assert str(fault) == "labels.'a.b\\x1b'[3]: wrong"
