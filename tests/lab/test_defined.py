"""Guests that are defined and do not run, and facts about all, as virsh shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lab.support.guest import Definition
from lab.support.hypervisor import Lab
from lab.support.machine import LabError
from support.agent import Agent, running


EVERY_SECOND = "[defined]\ninterval_seconds = 1.0\n"
STATE = "libvirt_domain_info_state"
FACTS = ("autostart", "persistent", "managed_save", "snapshots")


@contextmanager
def defined(lab: Lab, *names: str) -> Iterator[list[Definition]]:
    """Define guests for the length of a block; whatever of them is left is removed."""
    made = [lab.definition(name, nics=0) for name in names]
    try:
        for each in made:
            each.make_disks()
            file = lab.images / f"{each.uuid}.xml"
            file.write_text(each.xml())
            lab.virsh("define", str(file))
            lab.definitions[each.name] = each
        yield made
    finally:
        for each in made:
            lab.definitions.pop(each.name, None)
            with suppress(LabError):
                lab.virsh("destroy", each.uuid)
            with suppress(LabError):
                lab.virsh("undefine", each.uuid, "--managed-save", "--snapshots-metadata")


def facts(agent: Agent, name: str) -> dict[str, float]:
    """Return the facts about a guest, and its state."""
    found = {}
    for (family, labels), value in agent.samples().items():
        of = dict(labels)
        if of.get("domain") == name:
            if family == STATE:
                found[of["state"]] = value
            elif (fact := family.removeprefix("libvirt_domain_")) in FACTS:
                found[fact] = value
    return found


def test_guests_that_do_not_run(lab: Lab, tmp_path: Path):
    """A defined guest is shown once at any time: shut off, saved, running, and then no more."""
    plain = {"autostart": 0, "persistent": 1, "managed_save": 0, "snapshots": 0}
    with (
        defined(lab, "asleep", "moving") as (asleep, moving),
        running(tmp_path, lab.uri_readonly, more=EVERY_SECOND) as agent,
    ):
        agent.wait_for(lambda: facts(agent, "asleep") == plain | {"shutoff": 5})
        in_state = agent.value("libvirt_domains_in_state", state="shutoff")
        assert (in_state, agent.value("libvirt_inactive_domains")) == (2, 2)
        lab.virsh("autostart", asleep.uuid)
        for name in "first", "second":
            file = lab.images / f"{name}.xml"
            file.write_text(
                f"<domainsnapshot><name>{name}</name><creationTime>1</creationTime>"
                f"<state>shutoff</state>{asleep.xml()}</domainsnapshot>"
            )
            lab.virsh("snapshot-create", asleep.uuid, str(file), "--redefine")
        changed = plain | {"shutoff": 5, "autostart": 1, "snapshots": 2}
        agent.wait_for(lambda: facts(agent, "asleep") == changed)
        lab.virsh("start", "--paused", moving.uuid)
        agent.wait_for(lambda: facts(agent, "moving") == plain | {"paused": 3})
        assert agent.value("libvirt_inactive_domains") == 1
        lab.virsh("managedsave", moving.uuid)
        saved = plain | {"shutoff": 5, "managed_save": 1}
        agent.wait_for(lambda: facts(agent, "moving") == saved)
        reasons = [
            dict(labels)["reason"]
            for (family, labels), _ in agent.samples().items()
            if family == f"{STATE}_reason" and dict(labels)["domain"] == "moving"
        ]
        assert reasons == ["saved"]
        lab.virsh("undefine", moving.uuid, "--managed-save")
        agent.wait_for(lambda: not facts(agent, "moving"))
        assert facts(agent, "guest-0")["persistent"] == 0
        assert not agent.events("defined.refused")
