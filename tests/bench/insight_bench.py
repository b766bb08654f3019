"""
What it costs to know what people want to know.

Run with `PYTHONPATH=agent:tests python tests/bench/insight_bench.py`; prints the time of taking
a second's batches, of a round over all guests, of each document, and of a viewer's second.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

from support.insight import Item, World, control, cpu, disk, read, state
from virtstatd.insight.columns import GuestRow
from virtstatd.insight.documents import Totals
from virtstatd.insight.filters import Filter, Order
from virtstatd.model import Number, Reading
from virtstatd.serving.answers import encoded
from virtstatd.serving.live import Shared, View
from virtstatd.testing import make_domain


GUESTS = 1000
SLICE = 25


def readings(second: int) -> Iterator[list[Reading]]:
    """Yield the readings of a second, of so many guests at a time as a call has."""
    for start in range(0, GUESTS, SLICE):
        several: list[Reading] = []
        for number in range(start, min(GUESTS, start + SLICE)):
            domain = DOMAINS[number]
            several += [
                cpu(domain, second * 0.5, second * 0.01, vcpus=4),
                state(domain),
                control(domain, responsive=True),
                disk(domain, 100 * second, second * 0.05),
                read(domain, "balloon", BALLOON),
                net(number, second),
            ]
        yield several


DOMAINS = [make_domain(each) for each in range(GUESTS)]
BALLOON: dict[Item, Number] = {
    ("current", ()): 1 << 32,
    ("maximum", ()): 1 << 32,
    ("available", ()): 1 << 32,
    ("usable", ()): 1 << 31,
    ("last-update", ()): 1_700_001_000,
    ("rss", ()): 1 << 31,
}


def net(number: int, second: int) -> Reading:
    """Return an interface of a guest, whose name no other guest's has."""
    labels = (("target_device", f"vnet{number}"),)
    keys = ("rx.bytes", "rx.drop", "tx.bytes", "tx.drop")
    return read(
        DOMAINS[number], "net", {(f"{{target_device}}.{key}", labels): 9 * second for key in keys}
    )


def timed(name: str, work: Callable[[], object], times: int = 5) -> None:
    """Print the shortest time of some work."""
    took = min(_seconds(work) for _ in range(times))
    print(f"{name:40} {took * 1000:8.2f} ms {took / GUESTS * 1e6:7.2f} µs a guest")


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Print everything."""
    world = World()
    documents = world.insight.documents
    batches = {second: [*readings(second)] for second in range(8)}
    second = iter(range(8))

    def put() -> None:
        world.go(1)
        for each in batches[next(second)]:
            world.put(*each)

    def whole_round() -> None:
        for guest in world.insight.figures.guests.values():
            guest.version += 1
        for _ in range(max(5, -(-GUESTS // 100))):
            for _ in world.insight.look():
                pass

    def rows() -> list[GuestRow]:
        for guest in world.insight.figures.guests.values():
            guest.version += 1
        return [*documents.rows()]

    timed("batches of all guests", put)
    timed("a round of all guests", whole_round)
    timed("fresh rows", rows)
    made = [*documents.rows()]
    timed("host document", lambda: documents.host(Totals.of(made)))
    timed("guests document", lambda: documents.guests(made, Filter(), Order()))
    timed("  filtered and sorted", lambda: documents.guests(made, Filter("steal>1"), Order("-cpu")))
    document = documents.guests(made, Filter(), Order())
    timed("  encoded", lambda: encoded(document))
    print(f"{'  bytes':40} {len(encoded(document)):8}")
    loop = asyncio.new_event_loop()
    view = View(Shared(world.insight), {"limit": "60"})

    def viewer() -> None:
        world.insight.figures.version += 1
        for guest in world.insight.figures.guests.values():
            guest.version += 1
        view._shared._made_at = -9.0
        loop.run_until_complete(view.changed())

    timed("a viewer's second, the first viewer", viewer)
    loop.close()
    print(f"{'bytes of histories':40} {world.insight.history.size_bytes:8}")


if __name__ == "__main__":
    main()
