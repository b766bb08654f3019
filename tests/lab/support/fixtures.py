"""The lab as pytest fixtures; a `conftest.py` imports what its tests ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.support.hypervisor import Lab
from lab.support.machine import LabError, has_kvm
from lab.support.namespaces import Trace


# What libvirt accepts as names. A name is a file's name too, with ".xml.new" after it, so this
# libvirt ends at 247 bytes; line breaks it takes but forgets the guest at its next start.
HOSTILE_NAMES = (
    """quote"'\\back\\\\slash\\n{a="b"} <&>""",
    "emoji-\N{GRINNING FACE}-\N{RIGHT-TO-LEFT OVERRIDE}exe.\N{ZERO WIDTH SPACE}$(id)%s",
    "long-" + "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 121,
)
MANY = 100
MANY_FOR_LONG = 300
MANY_TIMEOUT_SECONDS = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that ask for many guests the time to start them."""
    for item in items:
        if {"many", "many_for_long"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(MANY_TIMEOUT_SECONDS))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs KVM where there is none; everything else runs without it."""
    if item.get_closest_marker("kvm") and not has_kvm():
        pytest.skip(f"{item.name}: needs KVM, and this machine has no usable /dev/kvm")


@contextmanager
def opened(traces: list[Trace]) -> Iterator[Lab]:
    """Run a lab for the length of a block; the test fails with a sentence where that cannot be."""
    lab = Lab()
    try:
        lab.open()
    except LabError as error:
        pytest.fail(str(error), pytrace=False)
    traces.append(lab.trace)
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="session")
def traces() -> Iterator[list[Trace]]:
    """Collect the traces of this session's labs; at its end nothing of them may be left."""
    seen: list[Trace] = []
    yield seen
    left = [line for trace in seen for line in trace.leftovers()]
    assert not left, f"left behind by the lab: {left}"


@pytest.fixture(scope="session")
def lab(traces: list[Trace]) -> Iterator[Lab]:
    """One live guest, nine paused ones and three with hostile names; leave them as they are."""
    with opened(traces) as lab:
        lab.paused_guests(9)
        lab.create(*map(lab.definition, HOSTILE_NAMES))
        lab.live_guest()
        yield lab


@pytest.fixture(scope="session")
def many(traces: list[Trace]) -> Iterator[Lab]:
    """Start a hundred paused guests."""
    with opened(traces) as lab:
        lab.paused_guests(MANY)
        yield lab


@pytest.fixture(scope="session")
def many_for_long(traces: list[Trace]) -> Iterator[Lab]:
    """Start three hundred paused guests, for soaks."""
    with opened(traces) as lab:
        lab.paused_guests(MANY_FOR_LONG)
        yield lab


@pytest.fixture
def private_lab(traces: list[Trace]) -> Iterator[Lab]:
    """Give the test four paused guests of its own, to restart, freeze and change."""
    with opened(traces) as lab:
        lab.paused_guests(4)
        yield lab
