"""The schema of the API, and real documents."""

from typing import Any

import msgspec
import pytest
from msgspec import Struct

from support.insight import VM, World, control, cpu, disk, read, state
from virtstatd.insight.columns import COLUMNS
from virtstatd.insight.documents import Totals
from virtstatd.insight.filters import Filter, Order
from virtstatd.insight.history import HOST
from virtstatd.insight.kinds import kind_documents
from virtstatd.model import Happening
from virtstatd.serving.answers import encoded
from virtstatd.serving.schema import DOCUMENTS, GuestJson, api_schema


def busy() -> World:
    """Return a world in which something is known of everything."""
    world = World()
    nic, machine = (("target_device", "vnet0"),), (("partition", "/machine"),)
    root = (("mountpoint", "/"), ("device", "vda"), ("fstype", "ext4"), ("target_device", ""))
    login = (("user", "root"), ("user_domain", ""))
    tier, sink = (("tier", "pulse"),), (("sink", "out"),)
    for at in range(1, 5):
        world.put(
            cpu(VM, at, at / 2),
            state(VM),
            control(VM, responsive=at < 4),
            disk(VM, 100 * at, at),
            read(VM, "net", {("{target_device}.rx.bytes", nic): at}),
            read(VM, "guest_filesystem", {("size", root): 100, ("used", root): 50}),
            read(VM, "guest", {("login", login): 1, ("users", ()): 1, ("load_1m", ()): 0.5}),
            read(VM, "guest_facts", {("interface", (("address", "::1"),)): 1}),
        )
        world.put(
            read(
                None,
                "agent",
                {
                    ("age", tier): 1.0,
                    ("build", (("version", "1"),)): 1,
                    ("collector_success", (("collector", "bulk"),)): 1,
                    ("interval", tier): 5.0,
                    ("sink_accepted_samples", sink): at,
                    ("up", ()): 1,
                },
            ),
            source="agent",
        )
        world.put(read(None, "partition", {("domains", machine): 1}), source="local summary")
        world.look()
        world.go(5)
        world.insight.happened(Happening(VM, "reboot", "", "", "", 1, 1_700_000_000_000_000_000))
    return world


def documents(world: World) -> dict[str, dict[str, Any]]:
    """Return a document of each path."""
    made = world.insight.documents
    rows = [*made.rows()]
    guest = made.guest(VM.uuid)
    assert guest
    return {
        "host": {**made.host(Totals.of(rows)), "history": world.insight.history_of(HOST)},
        "guests": made.guests(rows, Filter(), Order()),
        "guests/{uuid}": {**guest, "history": world.insight.history_of(VM.uuid)},
        "agent": made.agent(),
        "findings": {**made.found(), "kinds": kind_documents()},
        "events": world.insight.events("", None),
    }


@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("world", [World, busy], ids=["nothing", "everything"])
def test_documents_are_as_the_schema_says(path: str, world: Any):
    """Each document has all that the schema promises, of its type, and nothing that it omits."""
    it = world()
    if world is World:
        it.put(state(VM))
    document = msgspec.json.decode(encoded(documents(it)[path]))
    made: Struct = msgspec.convert(document, DOCUMENTS[path], strict=True)
    assert msgspec.to_builtins(made) == document


def test_something_is_in_every_list():
    """The documents above have a member in each list, so that each type was compared."""
    it = documents(busy())
    assert it["findings"]["findings"]
    assert it["guests"]["guests"]
    assert it["host"]["partitions"]
    assert it["agent"]["tiers"]
    assert it["agent"]["sinks"]
    assert it["agent"]["collectors"]
    assert it["events"]["events"]
    for part in "vcpus", "disks", "nics", "filesystems", "findings", "events":
        assert it["guests/{uuid}"][part], part
    assert it["guests/{uuid}"]["history"]["series"]["cpu_ratio"]
    assert it["guests/{uuid}"]["history"]["disks"]["vda"]["read_iops"]


def test_columns_are_those_of_a_row():
    """The table has the columns that the schema has, in its order."""
    assert [each.id for each in COLUMNS] == [*GuestJson.__struct_fields__]


def test_the_schema_refers_to_what_it_has():
    """Each path has a schema, and every reference leads somewhere."""
    schema = api_schema()
    assert schema["paths"].keys() == DOCUMENTS.keys()
    for reference in schema["paths"].values():
        assert reference["$ref"].removeprefix("#/$defs/") in schema["$defs"]
