"""Storage pools and networks in the document of the host, and what is found of them."""

import msgspec

from support.insight import VM, World, read, state
from virtstatd.model import Number, Reading
from virtstatd.serving.schema import GuestDocumentJson, HostJson


GIB = 1 << 30


def pools(**of: dict[str, Number]) -> Reading:
    """Return a reading of pools, by their names."""
    keys = ("state", "capacity", "available", "volumes", "volumes_in_use", "timed_out", "info")
    values: dict[tuple[str, tuple[tuple[str, str], ...]], Number] = {}
    for key in keys:
        for name, known in of.items():
            if key in known:
                more = {"state": (("state", "running"),), "info": (("type", "dir"),)}.get(key, ())
                values[key, (("storage_pool", name), *more)] = known[key]
    return read(None, "storage_pool", values)


def well(free: float) -> dict[str, Number]:
    """Return a pool of 100 GiB with this share of it free."""
    return {
        "state": 2,
        "capacity": 100 * GIB,
        "available": round(free * 100 * GIB),
        "volumes": 7,
        "volumes_in_use": 3,
        "timed_out": 0,
        "info": 1,
    }


def test_pools_and_networks_are_in_the_document():
    """Each has a row by name; what is not known of it is null."""
    world = World()
    world.put(pools(b=well(0.5), a={"timed_out": 1}), source="pools", lifetime_seconds=120)
    network = (("network", "n"),)
    world.put(
        read(
            None,
            "network",
            {
                ("active", network): 1,
                ("ports", network): 4,
                ("info", (*network, ("bridge", "br0"))): 1,
            },
        ),
        source="networks",
        lifetime_seconds=120,
    )
    document = world.insight.documents.host(world.insight._sum)
    msgspec.convert(document, HostJson)
    hung, other = document["storage_pools"]
    assert (hung["name"], hung["hangs"], hung["state"], hung["capacity_bytes"]) == (
        "a",
        True,
        None,
        None,
    )
    assert (other["name"], other["state"], other["type"]) == ("b", "running", "dir")
    assert (other["available_ratio"], other["volumes"], other["volumes_in_use"]) == (0.5, 7, 3)
    assert document["networks"] == [
        {"name": "n", "active": True, "bridge": "br0", "forward": None, "ports": 4}
    ]


def test_a_pool_that_is_nearly_full_and_one_that_hangs():
    """Each is a finding with the pool's name, which ends with its reason."""
    world = World()

    def found() -> dict[str, str]:
        world.go(5)
        world.look()
        documents = world.insight.judge.documents()
        return {each["finding"]: f"{each['severity']} {each['device']}" for each in documents}

    world.put(pools(a=well(0.5), b=well(0.09)), source="pools", lifetime_seconds=600)
    assert found() == {"pool_full": "warning b"}
    world.put(pools(a={"timed_out": 1}, b=well(0.02)), source="pools", lifetime_seconds=600)
    assert found() == {"pool_full": "critical b", "pool_hung": "critical a"}
    world.put(pools(a=well(0.5), b=well(0.5)), source="pools", lifetime_seconds=600)
    assert found() == {"pool_full": "critical b"}
    for _ in range(4):
        last = found()
    assert last == {}


def test_what_libvirt_keeps_of_a_guest():
    """A guest's document has its autostart, snapshots and devices; what is not known is null."""
    world = World()
    world.put(state(VM))
    world.put(
        read(VM, "defined", {("autostart", ()): 1, ("persistent", ()): 0, ("snapshots", ()): 3}),
        source="defined",
    )
    device = (("device", "hostdev0"), ("type", "pci"), ("address", "0000:06:12.5"))
    world.put(read(VM, "domain", {("hostdev", device): 1}), source="inventory")
    document = world.insight.documents.guest(VM.uuid)
    assert document
    msgspec.convert(document, GuestDocumentJson)
    assert document["definition"] == {
        "autostart": True,
        "persistent": False,
        "managed_save": None,
        "snapshots": 3,
        "checkpoints": None,
    }
    assert document["host_devices"] == [dict(device)]
