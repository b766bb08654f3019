"""Findings as records."""

import json

import pytest

from support.insight import VM, World, control, state
from virtstatd.formats.json_lines import Lines
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
