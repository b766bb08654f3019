"""What `doctor` says of guests, from what libvirt says of them."""

from __future__ import annotations

from typing import Any, cast

from virtstatd.commands.doctor.guests import (
    GuestFacts,
    facts,
    guest_checks,
    kvm_check,
    kvm_statistics,
)
from virtstatd.hypervisor.lanes import Session


class Guest:
    """A domain as the binding has it."""

    def __init__(self, name: str, xml: str) -> None:
        self._name, self._xml = name, xml

    def UUIDString(self) -> str:  # noqa: N802 - the binding's name
        """Return its UUID."""
        return f"uuid of {self._name}"

    def name(self) -> str:
        """Return its name."""
        return self._name

    def ID(self) -> int:  # noqa: N802 - as above
        """Return its number."""
        return 1

    def XMLDesc(self, _: int) -> str:  # noqa: N802 - as above
        """Return its XML, or fail as one that has ended."""
        if not self._xml:
            raise RuntimeError("it has ended")
        return self._xml


class Libvirt:
    """A connection to some guests, of which one key of statistics is known."""

    def __init__(self, *guests: Guest, key: str = "vm.exits.sum") -> None:
        self._guests, self._key = guests, key

    def getLibVersion(self) -> int:  # noqa: N802 - as above
        """Return a version as libvirt has it."""
        return 9_010_002

    def listAllDomains(self, _: int) -> list[Guest]:  # noqa: N802 - as above
        """Return the guests."""
        return list(self._guests)

    def lookupByUUIDString(self, uuid: str) -> str:  # noqa: N802 - as above
        """Return a handle."""
        return uuid

    def domainListGetStats(self, domains: list[str], _: int, __: int) -> list[Any]:  # noqa: N802 - as above
        """Return a record."""
        return [(domains[0], {self._key: 1})]


def domain(kind: str, balloon: str) -> str:
    """Return the XML of a guest."""
    return f"<domain type='{kind}'><devices>{balloon}</devices></domain>"


PERIOD = "<memballoon model='virtio'><stats period='10'/></memballoon>"
SILENT = "<memballoon model='virtio'/>"
NONE = "<memballoon model='none'/>"


def read(*guests: Guest) -> GuestFacts:
    """Return what is read of guests."""
    return facts(Session(cast("Any", Libvirt(*guests))))


def test_guests_are_told_apart():
    """A period, none, no balloon at all, and emulation are read from the XML."""
    found = read(
        Guest("good", domain("kvm", PERIOD)),
        Guest("silent", domain("kvm", SILENT)),
        Guest("zero", domain("kvm", PERIOD.replace("10", "0"))),
        Guest("bare", domain("qemu", NONE)),
        Guest("gone", ""),
    )

    assert found.version == "9.10.2"
    assert found.no_period == ["silent", "zero"]
    assert found.no_balloon == ["bare"]
    assert found.emulated == ["bare"]
    assert found.kvm == ["uuid of good", "uuid of silent", "uuid of zero"]


def test_a_guest_without_a_period_has_a_command():
    """The names are listed, and one command sets the period of all, by their UUIDs."""
    found = read(Guest("a;rm -rf $x", domain("kvm", SILENT)), Guest("b", domain("qemu", NONE)))
    checks = list(guest_checks(found))

    assert [(each.what, each.state) for each in checks] == [
        ("balloon", "missing"),
        ("balloon", "note"),
        ("KVM", "note"),
    ]
    assert "1 of 2 guests: a;rm -rf $x" in checks[0].text
    assert "virsh dommemstat $id --period 10" in checks[0].fix
    assert "rm -rf" not in checks[0].fix


def test_guests_that_lack_nothing():
    """Where every guest reports its memory that is said; where none runs nothing is known."""
    good = list(guest_checks(read(Guest("good", domain("kvm", PERIOD)))))
    assert [(each.what, each.state) for each in good] == [("balloon", "ok")]
    none = list(guest_checks(GuestFacts()))
    assert [(each.what, each.state) for each in none] == [("guests", "note")]


def test_statistics_of_kvm_are_asked_of_one_guest():
    """One key of KVM's is enough; without one it is a note with what they need."""
    counted = Session(cast("Any", Libvirt()))
    bare = Session(cast("Any", Libvirt(key="state.state")))

    assert kvm_statistics(counted, "u")
    assert not kvm_statistics(bare, "u")
    assert kvm_check(counted=True).state == "ok"
    assert (kvm_check(counted=False).state, "QEMU" in kvm_check(counted=False).fix) == (
        "note",
        True,
    )
