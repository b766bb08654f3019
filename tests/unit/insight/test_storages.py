"""Storages that are slow, and disks that have nearly filled their block device."""

from __future__ import annotations

from support.insight import VM, World, read, state
from virtstatd.model import Labels, Number, Reading


GIB = 1 << 30
FAST: Labels = (("storage_type", "mount"), ("storage", "fast"))
SLOW: Labels = (("storage_type", "nfs"), ("storage", "filer:/slow"))


def storages(fast: tuple[int, float], slow: tuple[int, float]) -> Reading:
    """Return what two storages did: requests, and seconds in them, half of each written."""
    values: dict[tuple[str, Labels], Number] = {}
    several = ((FAST, fast), (SLOW, slow))
    for way in "read", "write":
        for labels, (requests, _) in several:
            values[f"{way}_requests", labels] = requests // 2
        for labels, (_, seconds) in several:
            values[f"{way}_time_seconds", labels] = round(seconds / 2 * 1e9)
    return read(None, "storage", values)


def found(world: World) -> dict[str, str]:
    """Return what is found after a look, by its kind."""
    world.go(5)
    world.look()
    documents = world.insight.judge.documents()
    return {each["finding"]: f"{each['severity']} {each['device']}" for each in documents}


def test_a_slow_storage_is_named_and_a_fast_one_is_not():
    """The mean time of the requests of all guests decides, until it is short again."""
    world = World()
    world.put(storages((0, 0.0), (0, 0.0)), source="storage", lifetime_seconds=45)
    world.go(15)
    world.put(storages((1000, 1.0), (1000, 90.0)), source="storage", lifetime_seconds=45)
    assert found(world) == {"storage_latency": "warning filer:/slow"}
    (finding,) = world.insight.judge.documents()
    assert finding["text"] == "Requests to storage filer:/slow take 90 ms, of all guests together"
    world.go(10)
    world.put(storages((2000, 2.0), (2000, 91.0)), source="storage", lifetime_seconds=45)
    for _ in range(4):
        last = found(world)
    assert last == {}


def thin(**disks: tuple[float, float, float]) -> Reading:
    """Return disks by GiB written, GiB of what each is on, and its own GiB."""
    keys = ("allocation", "physical", "capacity")
    return read(
        VM,
        "block",
        {
            (f"{{target_device}}.{key}", (("target_device", device),)): round(several[at] * GIB)
            for at, key in enumerate(keys)
            for device, several in disks.items()
        },
    )


def test_a_disk_that_outgrows_its_block_device_is_named():
    """A thin disk on a full volume is found; a volume as large as its disk and a file are not."""
    world = World()
    kinds = {"vda": "block", "vdb": "block", "vdc": "file"}
    labels = {device: (("target_device", device), ("disk_type", k)) for device, k in kinds.items()}
    facts: dict[tuple[str, Labels], Number] = {("disk", of): 1 for of in labels.values()}
    world.put(state(VM))
    world.put(read(VM, "domain", facts), source="inventory", lifetime_seconds=120)
    others = {"vdb": (20.0, 20.0, 20.0), "vdc": (20.0, 20.0, 100.0)}
    world.put(thin(vda=(19, 20, 100), **others), lifetime_seconds=120)
    assert found(world) == {"disk_full": "warning vda"}
    world.put(thin(vda=(20, 20, 100), **others), lifetime_seconds=120)
    assert found(world) == {"disk_full": "critical vda"}
