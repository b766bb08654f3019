"""Guests, devices and fields that are left out cost no calls and appear only in a count."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.agent import Agent, running
from support.http_stub import answering
from support.simulator import Simulated, simulated
from support.wire.remote_write import STALE, read


LEFT_OUT = """
[filter]
exclude = [{ regex = "instance-0000000[1-3]" }]
exclude_disks = ["vdb"]
exclude_fields = ["libvirt_domain_vcpu_kvm*"]
"""
OWN = "https://example.org/vm/1"
SHOP = f"""
[metadata]
labels = [{{ label = "tenant", namespace = "{OWN}", path = "owner" }}]
[filter]
include = [{{ labels = {{ tenant = "shop" }} }}]
# more
"""
WRITE = """
[[sink]]
type = "remote_write"
protocol = "1.0"
url = "{url}"
"""


def guests(agent: Agent) -> set[str]:
    """Return the guests on the page."""
    return {dict(labels)["domain"] for _, labels in agent.samples() if "domain" in dict(labels)}


def names(sim: Simulated) -> list[str]:
    """Return the names of the guests that run."""
    listed = subprocess.run(
        ["virsh", "-q", "-r", "-c", sim.uri, "list", "--name"],
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.split()


def test_guests_that_are_left_out_cost_no_calls(tmp_path: Path):
    """Three guests that hang are not asked, described, shown or named; the others are whole."""
    with simulated(tmp_path, "--domains=6", "--profile=complete", "--libvirt=12") as sim:
        hung = {f"instance-0000000{number}" for number in (1, 2, 3)}
        everybody = set(names(sim))
        assert hung < everybody
        sim.do("hang", domains=sorted(hung))
        with running(tmp_path, sim.uri, more=LEFT_OUT) as agent:
            agent.wait_for(lambda: guests(agent) == everybody - hung)
            agent.wait_for(
                lambda: (
                    agent.value("virtstatd_success_total", tier="extra")
                    or agent.value("virtstatd_age_seconds", tier="extra") is not None
                )
            )
            assert agent.value("libvirt_domains") == 3
            assert agent.value("virtstatd_filtered_domains") == 3
            series = set(agent.samples())
            with urllib.request.urlopen(f"{agent.address}/api/v1/guests", timeout=100) as answer:
                listed: list[dict[str, Any]] = json.load(answer)["guests"]
        calls = sim.do("status")["calls"]
    assert {row["name"] for row in listed} == everybody - hung
    devices = {dict(labels).get("target_device") for _, labels in series}
    assert "vda" in devices
    assert "vdb" not in devices
    assert not any(name.startswith("libvirt_domain_vcpu_kvm") for name, _ in series)
    assert calls["DOMAIN_GET_XML_DESC"] == 3
    assert not agent.events("poll.failing")
    assert not agent.events("domain.unresponsive")


async def test_a_change_of_metadata_and_a_reload_end_series_properly(tmp_path: Path):
    """A guest of another project leaves and returns; whom a reload leaves out has marks of it."""
    with simulated(tmp_path, "--domains=4", "--profile=complete") as sim:
        everybody = names(sim)
        for name in everybody[:2]:
            write(sim, name, "shop")
        async with answering() as stub:
            more = SHOP + WRITE.format(url=stub.url)
            with running(tmp_path, sim.uri, more=more) as agent:
                await asyncio.to_thread(leave_and_return, agent, sim, everybody)
                file = tmp_path / "virtstatd.toml"
                text = file.read_text().replace(
                    "# more", f'exclude = [{{ name = "{everybody[1]}" }}]'
                )
                file.write_text(text)
                agent.process.send_signal(signal.SIGHUP)
                started = partial(agent.events, "agent.started")
                await asyncio.to_thread(agent.wait_for, lambda: len(started()) == 2)
                filtered = partial(agent.value, "virtstatd_filtered_domains")
                await asyncio.to_thread(agent.wait_for, lambda: filtered() == 3)
                await asyncio.to_thread(agent.wait_for, lambda: guests(agent) == {everybody[0]})
            latest = {
                labels: number
                for request in stub.requests
                for labels, number, _ in read(request.body)
                if ("domain", everybody[1]) in labels
            }
            others = {
                number
                for request in stub.requests
                for labels, number, _ in read(request.body)
                if ("domain", everybody[0]) in labels
            }
    assert len(latest) > 50
    assert set(latest.values()) == {STALE}, "the last of each of its series is a mark"
    assert len(others) > 1


def write(sim: Simulated, name: str, project: str) -> None:
    """Write a project into a guest's metadata."""
    element = f"<v xmlns='{OWN}'><owner>{project}</owner></v>"
    sim.do("metadata", domains=[name], uri=OWN, element=element)


def leave_and_return(agent: Agent, sim: Simulated, everybody: list[str]) -> None:
    """Have a guest leave the project and return."""
    wanted = set(everybody[:2])
    agent.wait_for(lambda: guests(agent) == wanted)
    agent.wait_for(lambda: agent.value("virtstatd_filtered_domains") == len(everybody) - 2)
    write(sim, everybody[1], "other")
    agent.wait_for(lambda: guests(agent) == {everybody[0]})
    write(sim, everybody[1], "shop")
    agent.wait_for(lambda: guests(agent) == wanted)


@pytest.mark.parametrize("reachable", [True, False])
def test_check_says_how_many_guests_match(tmp_path: Path, *, reachable: bool):
    """How many are monitored here, and each rule that matches nobody, with its line."""
    config = tmp_path / "file.toml"
    with simulated(tmp_path, "--domains=4", "--profile=complete") as sim:
        uri = sim.uri if reachable else sim.uri + "-none"
        config.write_text(
            f'[hypervisor]\nuri = "{uri}"\n[filter]\n'
            'include = [{ name = "instance-*" }, { partition = "/nowhere" }]\n'
            'exclude = [{ regex = "instance-0000000[12]" }, { labels = { project_name = "-" } }]\n'
            'exclude_fields = ["libvirt_domain_nothing"]\n[[sink]]\ntype = "null"\n'
        )
        done = subprocess.run(
            [sys.executable, "-m", "virtstatd", "check", str(config)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert f"{config}:6: filter.exclude_fields[0]: matches nothing" in done.stdout
    if reachable:
        assert "filter: 2 of 4 active guests are monitored" in done.stdout
        assert "filter.include[1]: matches none of the 4 active guests" in done.stdout
        assert "filter.exclude[1]: matches none of the 4 active guests" in done.stdout
        assert "filter.exclude[0]" not in done.stdout
    else:
        assert "filter: libvirt did not list the running guests" in done.stdout
