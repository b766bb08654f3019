"""The line that `systemctl status` shows."""

from __future__ import annotations

from typing import Any, cast

import pytest

from virtstatd.collector import Up
from virtstatd.service.daemon import Watch


class Service:
    """What the line is about."""

    def __init__(self, guests: int, silent: list[str], sinks: dict[str, bool]) -> None:
        self.hypervisor = self
        self.inventory = range(guests)
        self.rejected = False
        self.outlets = [Outlet(name, failing=failing) for name, failing in sinks.items()]
        self._silent = silent

    def unresponsive(self) -> list[str]:
        """Return who does not answer."""
        return self._silent

    def status(self, *, up: bool = True) -> str:
        """Return the line."""
        control: Any = self
        watch = Watch(cast("Any", None), control, Up(up=up))
        watch.started(cast("Any", self.outlets), cast("Any", self))
        return watch._status(cast("Any", self))


class Outlet:
    """A sink, as far as the line goes."""

    def __init__(self, name: str, *, failing: bool) -> None:
        self.name = name
        self.failing = failing


@pytest.mark.parametrize(
    ("service", "line"),
    [
        (Service(1, [], {"a": False}), "libvirt is up, 1 guest, 1 sink"),
        (
            Service(60, ["guest-7"], {"a": False, "b": True}),
            "libvirt is up, 60 guests, 1 of them does not answer (guest-7), 2 sinks, 1 failing (b)",
        ),
        (
            Service(60, [f"g{n}" for n in range(8)], {}),
            (
                "libvirt is up, 60 guests, 8 of them do not answer "
                "(g0, g1, g2, g3, g4 and 3 more), 0 sinks"
            ),
        ),
        (
            Service(2, ["x" * 500], {"a": False}),
            f"libvirt is up, 2 guests, 1 of them does not answer ({'x' * 39}\u2026), 1 sink",
        ),
    ],
)
def test_the_line_names_who_has_trouble(service: Service, line: str):
    """Guests that do not answer and sinks that fail, a few by name, long names cut."""
    assert service.status() == line


def test_the_line_says_what_an_administrator_must_know():
    """Libvirt is away, or a reload was refused."""
    service = Service(3, [], {"a": False})
    service.rejected = True
    assert service.status(up=False) == (
        "libvirt is down, 3 guests, 1 sink, the last reload was rejected"
    )
