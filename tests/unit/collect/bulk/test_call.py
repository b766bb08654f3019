"""What a bulk call finds out about its records."""

from typing import Any

import pytest

from virtstatd.catalog import shipped
from virtstatd.catalog.decode import Decoder
from virtstatd.collect.bulk.answer import POLLED
from virtstatd.collect.bulk.call import BulkCall
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Session


UUID = "11111111-1111-4111-8111-111111111111"
IDLE, BUSY = (0, 0, 0), (2, 0, 100)
WHOLE = {"iothread.count": 1, "iothread.1.poll-max-ns": 32768}
VM = POLLED["vm"].bit
IOTHREAD = POLLED["iothread"].bit


class Libvirt:
    """A connection and its only guest, with a record and a state of its monitor."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = dict(WHOLE)
        self.control = IDLE
        self.looks = 0
        self.flags = 0

    def domainListGetStats(self, *asked: Any) -> list[Any]:  # noqa: N802 - libvirt's name
        """Return the record."""
        _, _, self.flags = asked
        return [(self, self.record)]

    def controlInfo(self) -> tuple[int, int, int]:  # noqa: N802 - libvirt's name
        """Return the state of the monitor."""
        self.looks += 1
        return self.control

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        """Return the UUID."""
        return UUID

    def name(self) -> str:
        """Return a name."""
        return "vm"

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        """Return the run's number."""
        return 1


@pytest.fixture
def libvirt() -> Libvirt:
    """Make a hypervisor."""
    return Libvirt()


class Calls:
    """A bulk call that asks it."""

    def __init__(self, libvirt: Libvirt, *, backing_chains: bool = False) -> None:
        self.inventory = Inventory()
        self._session: Any = Session(libvirt, {UUID: libvirt})
        decoder = Decoder(shipped(), lambda _: None)
        self._call = BulkCall(self.inventory, decoder, backing_chains=backing_chains)

    def partial(self, bits: int = IOTHREAD) -> dict[str, Any]:
        """Ask, and return who was stepped over."""
        return self._call.some(self._session, bits, [UUID]).partial


def test_a_record_without_signs_is_compared_with_those_before(libvirt: Libvirt):
    """Nothing of a busy guest's threads is left: a shorter record is one that lacks something."""
    calls = Calls(libvirt)
    assert calls.partial() == {}
    libvirt.record, libvirt.control = {}, BUSY
    assert calls.partial() == calls.partial() == {UUID: BUSY}
    libvirt.record, libvirt.control = dict(WHOLE), IDLE
    assert calls.partial() == {}
    assert libvirt.looks == 2


def test_a_device_that_has_gone_is_missed_once(libvirt: Libvirt):
    """A shorter record of a guest that nobody holds is the whole one from then on."""
    calls = Calls(libvirt)
    assert calls.partial() == {}
    libvirt.record = {"iothread.count": 0}
    assert calls.partial() == {UUID: IDLE}
    assert calls.partial() == {}


def test_other_groups_and_other_runs_are_not_compared(libvirt: Libvirt):
    """What a guest has in one group says nothing of another one, nor of its next run."""
    calls = Calls(libvirt)
    assert calls.partial() == {}
    libvirt.record = {}
    assert calls.partial(VM) == {}
    calls.inventory.end(UUID)
    calls.inventory.started(UUID, "vm", 1)
    assert calls.partial() == {}
    assert libvirt.looks == 0


def test_backing_chains_are_asked_for_where_they_are_wanted(libvirt: Libvirt):
    """The flag goes with the disks' group, and with nothing else, of those who chose it."""
    block, flag = POLLED["block"].bit, 1 << 30
    flags = []
    for wanted in (False, True):
        for bits in (block, block | VM, VM):
            Calls(libvirt, backing_chains=wanted).partial(bits)
            flags.append(libvirt.flags & flag)
    assert flags == [0, 0, 0, flag, flag, 0]
