"""Findings as records."""

import json

import pytest

from support.insight import VM, World, control, state
from virtstatd.catalog import shipped
from virtstatd.collect.events.meanings import harmless
from virtstatd.formats.json_lines import Lines
from virtstatd.insight.records import record_of_event
from virtstatd.model import Happening
from virtstatd.testing import HOSTILE_NAMES, make_domain


def test_a_finding_begins_and_ends_as_a_record():
    """A document has what was found, of which guest, since when, and what helps."""
    world = World()
    lines = Lines("hv1")
    for responsive in False, True:
        world.put(control(VM, responsive=responsive), state(VM))
        world.look()
        world.go(5)
    began, ended = (json.loads(b"".join(lines.pieces(each))) for each in world.records)
    assert began["group"] == ended["group"] == "finding"
    assert (began["domain"], began["uuid"]) == ("vm-0", VM.uuid)
    assert (began["fields"]["active"], ended["fields"]["active"]) == (1, 0)
    assert began["fields"]["value"] == 1.0
    info = began["fields"]["info"]
    assert (info["finding"], info["severity"]) == ("stuck", "critical")
    assert info["text"].startswith("The monitor of vm-0 does not answer")
    assert info["advice"].startswith(f"virsh domcontrol {VM.uuid} ")
    assert "until" not in info
    assert ended["fields"]["info"]["until"] > info["since"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_an_event_is_a_record(name: str):
    """It has what libvirt says, and nothing for what it does not say, whatever the texts are."""
    text = harmless(name)
    happening = Happening(VM, "io_error", "enospc", text, text, 3, 1_700_000_000_000_000_000)
    line = json.loads(b"".join(Lines().pieces(record_of_event(happening, shipped()))))
    assert (line["group"], line["uuid"], line["fields"]["repeats"]) == ("event", VM.uuid, 3)
    facts = {"event": "io_error", "detail": "enospc"} | dict.fromkeys(("device", "more"), text)
    assert line["fields"]["info"] == {name: each for name, each in facts.items() if each}
    quiet = record_of_event(Happening(VM, "reboot", "", "", "", 1, 1), shipped())
    assert json.loads(b"".join(Lines().pieces(quiet)))["fields"]["info"] == {"event": "reboot"}


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_stay_in_their_field(name: str):
    """A name changes nothing of a record but its own text."""
    world = World()
    vm = make_domain(0, name)
    world.put(control(vm, responsive=False))
    world.look()
    (batch,) = world.records
    line = json.loads(b"".join(Lines().pieces(batch)))
    assert line["fields"]["info"]["finding"] == "stuck"
    assert line["fields"]["active"] == 1
