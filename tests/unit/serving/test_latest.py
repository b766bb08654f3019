"""What a scrape page shows, and for how long."""

from dataclasses import replace
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families as read_text

from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Pages
from virtstatd.testing import FakeClock, make_batch, make_domain, make_shapes


CPU = Shape("cpu", (Series(Field("d", "cpu", Kind.COUNTER, "", "Help.")),))
BLOCK = Shape("block", (Series(Field("d", "block", Kind.COUNTER, "", "Help.")),))
A = make_domain(0, "a")
B = make_domain(1, "b")


class Shown:
    """A page under a clock in the test's hand."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.latest = Latest(self.clock, lambda: int(self.clock() * 1e9))
        self.log = structlog.testing.CapturingLogger()
        self.pages = Pages(self.latest, self.log)

    def put(self, *readings: Reading, **others: Any) -> None:
        """Let a batch of the source `bulk` arrive."""
        others = {
            "source": "bulk",
            "taken_at": int(self.clock() * 1e9),
            "lifetime_seconds": 20.0,
            **others,
        }
        self.latest.put(Batch(readings=readings, **others))

    def put_batch(self, batch: Batch) -> None:
        """Let a batch arrive as soon as it was taken."""
        self.latest.put(replace(batch, taken_at=int(self.clock() * 1e9)))

    async def text(self) -> str:
        """Return the whole page."""
        page = await self.pages.get(openmetrics=False)
        text = b"".join(page.plain())
        assert len(text) == page.length
        return text.decode()

    async def values(self) -> dict[str, float]:
        """Return the values by name and guest; a series that is there twice is a fault."""
        found = {}
        for family in read_text(await self.text()):
            for sample in family.samples:
                key = sample.name.removesuffix("_total")
                key += "".join(f" {value}" for value in sample.labels.values())
                assert key not in found
                found[key] = sample.value
        return found


@pytest.fixture
def shown() -> Shown:
    """Make an empty page."""
    return Shown()


async def test_the_latest_reading_is_shown(shown: Shown):
    """A reading replaces the one before it, in the same group of the same guest."""
    shown.put(Reading(A, CPU, (1,)), Reading(B, CPU, (2,)))
    shown.put(Reading(A, CPU, (3,)))
    assert await shown.values() == {"d_cpu a": 3, "d_cpu b": 2}


async def test_an_old_reading_disappears(shown: Shown):
    """A guest that no batch mentions any more is gone when its last reading's lifetime ends."""
    shown.put(Reading(A, CPU, (1,)), Reading(B, CPU, (1,)))
    await shown.clock.advance(19.9)
    shown.put(Reading(B, CPU, (2,)))
    assert await shown.values() == {"d_cpu a": 1, "d_cpu b": 2}
    await shown.clock.advance(0.1)
    assert await shown.values() == {"d_cpu b": 2}
    await shown.clock.advance(100)
    assert await shown.text() == ""


async def test_a_reading_that_was_late_is_shown_for_what_is_left_of_its_lifetime(shown: Shown):
    """A lifetime counts from when a reading was taken, however long it waited on its way."""
    taken_at = int(shown.clock() * 1e9)
    await shown.clock.advance(15)
    shown.put(Reading(A, CPU, (1,)), taken_at=taken_at)
    shown.put(Reading(B, CPU, (1,)), taken_at=taken_at - 10**10)
    assert await shown.values() == {"d_cpu a": 1}
    await shown.clock.advance(5)
    assert await shown.text() == ""


async def test_a_wall_clock_that_was_set_back_prolongs_no_lifetime(shown: Shown):
    """A reading that claims to be of the future is shown for its lifetime and no longer."""
    shown.put(Reading(A, CPU, (1,)), taken_at=int(shown.clock() * 1e9) + 3600 * 10**9)
    await shown.clock.advance(20)
    assert await shown.text() == ""


async def test_a_guest_that_ended_disappears_at_once(shown: Shown):
    """What a batch reports as gone is not shown again, though the same batch still brought it."""
    shown.put(Reading(A, CPU, (1,)), Reading(A, BLOCK, (1,)), Reading(B, CPU, (1,)))
    shown.put(Reading(A, CPU, (2,)), gone=(A,))
    assert await shown.values() == {"d_cpu b": 1}


async def test_the_end_of_an_earlier_run_spares_the_next(shown: Shown):
    """A guest that was started again stays, when the end of its former run arrives late."""
    again = Domain(A.uuid, A.name, A.id + 100, A.labels)
    shown.put(Reading(again, CPU, (1,)))
    shown.put(gone=(A,))
    assert await shown.values() == {"d_cpu a": 1}


async def test_a_new_run_forgets_the_numbers_of_the_former(shown: Shown):
    """Groups of a former run are not shown beside those of the new one."""
    again = Domain(A.uuid, A.name, A.id + 100, A.labels)
    shown.put(Reading(A, CPU, (1,)), Reading(A, BLOCK, (1,)))
    shown.put(Reading(again, CPU, (2,)))
    assert await shown.values() == {"d_cpu a": 2}


async def test_a_group_that_was_asked_and_not_answered_disappears(shown: Shown):
    """An asked group without a reading is gone for guests of the batch, and for no others."""
    both = frozenset({"cpu", "block"})
    everything = [Reading(each, shape, (1,)) for each in (A, B) for shape in (CPU, BLOCK)]
    shown.put(*everything, groups=both)
    shown.put(Reading(A, CPU, (2,)), groups=both)
    assert await shown.values() == {"d_cpu a": 2, "d_cpu b": 1, "d_block b": 1}
    shown.put(Reading(B, CPU, (3,)), groups=frozenset({"cpu"}))
    assert await shown.values() == {"d_cpu a": 2, "d_cpu b": 3, "d_block b": 1}


async def test_another_source_is_not_what_was_asked(shown: Shown):
    """A group that one source has lost stays when another source brought it."""
    shown.put(Reading(A, CPU, (1,)), Reading(A, BLOCK, (1,)), source="local")
    shown.put(Reading(A, CPU, (2,)), groups=frozenset({"cpu", "block"}))
    assert await shown.values() == {"d_cpu a": 2, "d_block a": 1}


async def test_the_newer_of_two_sources_wins(shown: Shown):
    """A series that two sources bring is on the page once, with what arrived last."""
    wide = Shape("wide", (*CPU.series, *BLOCK.series))
    shown.put(Reading(A, wide, (1, 2)))
    shown.put(Reading(A, CPU, (3,)), source="local")
    assert await shown.values() == {"d_cpu a": 3, "d_block a": 2}
    shown.put(Reading(A, wide, (4, 5)))
    assert await shown.values() == {"d_cpu a": 4, "d_block a": 5}


@pytest.mark.parametrize("how", ["expired", "another shape", "not answered"])
async def test_a_counter_does_not_go_back_where_its_newer_source_ceases(shown: Shown, how: str):
    """An older reading of another source is shown again, with its counters as they were last."""
    gauge = Series(Field("d", "size", Kind.GAUGE, "", "Help."))
    both = Shape("both", (CPU.series[0], gauge))
    shown.put(Reading(A, both, (3, 3)), Reading(B, both, (9, 9)))
    kernel = {"source": "local", "lifetime_seconds": 5.0, "groups": frozenset({"kernel"})}
    newer = Shape("kernel", both.series)
    shown.put(Reading(A, newer, (5, 2)), Reading(B, newer, (8, 2)), **kernel)
    assert await shown.values() == {"d_cpu a": 5, "d_size a": 2, "d_cpu b": 8, "d_size b": 2}
    if how == "expired":
        await shown.clock.advance(6)
    else:
        group = "kernel" if how == "another shape" else "other"
        shape = Shape(group, BLOCK.series)
        shown.put(Reading(A, shape, (1,)), Reading(B, shape, (1,)), **kernel)
    values = await shown.values()
    assert {key: value for key, value in values.items() if "block" not in key} == {
        "d_cpu a": 5,
        "d_size a": 3,
        "d_cpu b": 9,
        "d_size b": 9,
    }


async def test_two_guests_of_one_name_do_not_double(shown: Shown):
    """A guest that was defined anew under its old name has each series once."""
    twin = Domain("another-uuid", A.name, 77, A.labels)
    shown.put(Reading(A, CPU, (1,)), Reading(A, BLOCK, (1,)))
    shown.put(Reading(twin, CPU, (2,)))
    assert await shown.values() == {"d_cpu a": 2, "d_block a": 1}


async def test_a_histogram_is_taken_whole(shown: Shown):
    """Of two sources' histograms no bucket is mixed into the other."""
    shape = next(each for each in make_shapes(disks=1) if each.group == "block")
    start = next(index for index, each in enumerate(shape.series) if each.part)
    short = Shape("x", tuple(each for each in shape.series if each.part)[2:])
    shown.put(Reading(A, shape, tuple(range(len(shape.series)))))
    shown.put(Reading(A, short, tuple(range(100, 100 + len(short.series)))), source="local")
    values = await shown.values()
    assert start > 0
    latencies = [value for key, value in values.items() if "latency" in key and "sum" not in key]
    assert latencies == [100, 101, 103]


async def test_a_renamed_guest_has_one_name(shown: Shown):
    """Series of the former name do not stay behind when a guest comes back under another."""
    renamed = Domain(A.uuid, "c", A.id + 1, (("domain", "c"),))
    shown.put(Reading(A, CPU, (1,)))
    shown.put(Reading(renamed, CPU, (2,)))
    assert await shown.values() == {"d_cpu c": 2}


async def test_one_family_is_one_block(shown: Shown):
    """Every family has its lines together under one HELP and one TYPE."""
    shown.put_batch(make_batch(5))
    shown.put_batch(make_batch(5, source="other", shapes=[CPU]))
    text = await shown.text()
    heads = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    names = [line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")]
    names = [
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in names
    ]
    changes = [name for before, name in zip(["", *names], names, strict=False) if before != name]
    assert len(changes) == len(set(changes))


async def test_families_of_one_name_and_two_kinds(shown: Shown):
    """A family keeps the kind that it has on the page; what contradicts is left out and said."""
    gauge = Shape("gauge", (Series(Field("d", "cpu", Kind.GAUGE, "", "Help.")),))
    shown.put(Reading(A, CPU, (1,)))
    shown.put(Reading(A, gauge, (2,)))
    assert len(await shown.values()) == 1
    shown.put(Reading(B, CPU, (1,)))
    assert len(await shown.values()) in (1, 2)
    assert [call.method_name for call in shown.log.calls] == ["error"]


async def test_the_same_page_is_made_once(shown: Shown):
    """Clients that ask between two batches share one page, in each of the formats."""
    shown.put(Reading(A, CPU, (1,)))
    first = await shown.pages.get(openmetrics=False)
    assert await shown.pages.get(openmetrics=True) is not first
    assert await shown.pages.get(openmetrics=False) is first
    shown.put(Reading(A, CPU, (2,)))
    assert await shown.pages.get(openmetrics=False) is not first


async def test_memory_of_guests_that_went(shown: Shown):
    """Nothing stays behind of guests that came and went."""
    for number in range(50):
        guest = make_domain(number)
        shown.put(Reading(guest, CPU, (1,)))
        await shown.values()
        shown.put(gone=(guest,))
    await shown.values()
    latest = shown.latest
    assert (latest._held, latest._label_texts, latest._plans) == ({}, {}, {})
