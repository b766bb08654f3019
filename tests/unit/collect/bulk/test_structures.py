"""The bulk call on libvirt's own structures and through the binding."""

from __future__ import annotations

from collections.abc import Iterator

import libvirt
import pytest

from support.native import native
from support.structures import shown
from virtstatd.catalog import shipped
from virtstatd.catalog.decode import Decoder
from virtstatd.collect.bulk.answer import MONITOR, POLLED, Answer
from virtstatd.collect.bulk.call import BulkCall
from virtstatd.collect.bulk.structures import LIBRARY, Structures
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Session


BITS = POLLED["state"].bit | MONITOR


@pytest.fixture
def session() -> Iterator[Session]:
    """Open libvirt's driver for tests, which has a guest."""
    session = Session(libvirt.open("test:///default"))
    yield session
    session.close()


def own() -> Structures:
    """Return the way past the binding."""
    return Structures(native().Libvirt(LIBRARY), native().Take)


def call(structures: Structures | None) -> BulkCall:
    """Make a call of one of the two ways."""
    return BulkCall(Inventory(), Decoder(shipped(), lambda _: None), structures=structures)


def answers(call: BulkCall, session: Session) -> Iterator[Answer]:
    """Ask for all domains and for those that there are, twice."""
    for _ in range(2):
        yield call.everyone(session, BITS)
        yield call.some(session, BITS, call.running(session))


def test_both_ways_give_the_same_answer(session: Session):
    """Domains, readings, and what is partial are alike, at first sight and afterwards."""
    ways = (answers(call(each), session) for each in (None, own()))
    for binding, past in zip(*ways, strict=True):
        assert shown(past.readings) == shown(binding.readings)
        assert (past.seen, past.domains) == (binding.seen, binding.domains)
        assert (past.partial, past.undecodable) == (binding.partial, binding.undecodable)
        assert len(past.seen) == 1


def test_an_error_is_libvirts_own(session: Session):
    """What libvirt refuses is raised with its code and its words, as by the binding."""
    connection, unknown = session.connection, 1 << 12
    with pytest.raises(libvirt.libvirtError) as binding:
        connection.getAllDomainStats(0, unknown)
    for domains in (None, connection.listAllDomains()):
        with (
            pytest.raises(libvirt.libvirtError) as past,
            own().records(connection, domains, 0, unknown),
        ):
            pass
        assert past.value.get_error_code() == binding.value.get_error_code()
        assert past.value.get_error_message() == binding.value.get_error_message()


def test_nothing_holds_the_connection():
    """After an answer the connection closes: every reference of its records has been given back."""
    session = Session(libvirt.open("test:///default"))
    list(answers(call(own()), session))
    session.domains.clear()
    assert session.connection.close() == 0
