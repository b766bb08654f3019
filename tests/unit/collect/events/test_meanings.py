"""What events say, in words."""

import pytest

from virtstatd.collect.events.meanings import (
    LIFECYCLE,
    MEANINGS,
    TEXT_MAX,
    Meaning,
    known_details,
    meaning_of,
)
from virtstatd.hypervisor.arrivals import EVENTS
from virtstatd.testing import HOSTILE_NAMES


@pytest.mark.parametrize(
    ("name", "values", "meaning"),
    [
        ("lifecycle", (5, 2), Meaning("stopped_crashed")),
        ("lifecycle", (8, 0), Meaning("crashed_panicked")),
        ("lifecycle", (5, 77), Meaning("stopped_77")),
        ("lifecycle", (99, 3), Meaning("99_3")),
        ("reboot", (), Meaning()),
        ("watchdog", (2,), Meaning("reset")),
        ("watchdog", (70,), Meaning("70")),
        (
            "io_error",
            ("/d", "virtio-disk0", 1, "enospc"),
            Meaning("enospc", "virtio-disk0", "pause /d"),
        ),
        ("io_error", ("/d", "virtio-disk0", 2, ""), Meaning("other", "virtio-disk0", "report /d")),
        (
            "disk_change",
            (None, "/n", "ide0", 1),
            Meaning("drop_missing_on_start", "ide0", " -> /n"),
        ),
        ("tray_change", ("ide0", 0), Meaning("open", "ide0")),
        ("block_job", ("vda", 2, 3), Meaning("copy_ready", "vda")),
        ("block_job", ("vda", 9, 8), Meaning("9_8", "vda")),
        ("job_completed", ({"operation": 5, "type": 3},), Meaning("migration_out")),
        ("job_completed", ({"operation": 2, "errmsg": "no"},), Meaning("save", "", "no")),
        ("agent_lifecycle", (1, 2), Meaning("connected", "", "2")),
        ("metadata_change", (2, "http://x"), Meaning("element", "", "http://x")),
        ("metadata_change", (0, None), Meaning("description")),
        ("block_threshold", ("vda", "/d", 7, 3), Meaning("", "vda", "/d 7 bytes and 3 more")),
        ("memory_failure", (1, 2, 3), Meaning("guest_fatal", "", "3")),
        ("device_removed", ("net0",), Meaning("", "net0")),
        ("nic_mac_change", ("net0", "a", "b"), Meaning("", "net0", "a b")),
        ("graphics", (0, {}, {"node": "10.0.0.7"}, "vnc", []), Meaning("connect")),
        ("balloon_change", (1024,), Meaning("", "", "1024")),
        ("event_33", ("new", 7, None), Meaning("", "", "new 7 ")),
    ],
)
def test_each_kind(name: str, values: tuple[object, ...], meaning: Meaning):
    """Known numbers have names, others stay numbers, and what is new keeps its values."""
    assert meaning_of(name, values) == meaning


@pytest.mark.parametrize("name", [*MEANINGS])
@pytest.mark.parametrize("values", [(), (None,) * 7, ({},), ([], "x"), (1, 2, 3, 4, 5, 6, 7, 8)])
def test_what_looks_otherwise_than_known_is_kept(name: str, values: tuple[object, ...]):
    """No number and no type of arguments raises: they may change with libvirt."""
    assert isinstance(meaning_of(name, values), Meaning)


@pytest.mark.parametrize("text", [*HOSTILE_NAMES, "a" * 5000, "a\nb\x1b[31m\u202e"])
def test_hostile_texts_are_short_and_of_one_line(text: str):
    """Aliases and paths are of guests' owners: nothing in them moves a cursor or fills memory."""
    meaning = meaning_of("io_error", (text, text, 1, text))
    for each in meaning.detail, meaning.device:
        assert each.isprintable()
        assert len(each) <= TEXT_MAX
    assert meaning.more.isprintable()


def test_details_that_are_known_beforehand():
    """Each kind of event has at least one, and those of lifecycles are all there."""
    known = list(known_details())
    assert {event for event, _ in known} == {*EVENTS.values()}
    assert len(known) == len({*known})
    lifecycle = [detail for event, detail in known if event == "lifecycle"]
    assert len(lifecycle) == sum(len(of) for _, of in LIFECYCLE.values())
