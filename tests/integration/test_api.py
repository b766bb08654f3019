"""The API of a running agent."""

from __future__ import annotations

import json
import signal
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from support.service import Service, service
from support.simulator import simulated


def ask(it: Service, path: str) -> Any:
    """Return a document, None where nobody answers."""
    url = f"http://127.0.0.1:{it.port}/api/v1/{path}"
    try:
        with urllib.request.urlopen(url, timeout=100) as answer:
            return json.load(answer)
    except (OSError, HTTPException):  # an agent that ends cuts it off
        return None


def known(it: Service) -> list[float]:
    """Return what is remembered of the host's network."""
    host = ask(it, "host?history=1")
    series = host["history"]["series"]["network.receive_bytes_per_second"] if host else []
    return [number for number in series if number is not None]


def test_the_last_hour_survives_a_reload(tmp_path: Path) -> None:
    """After a SIGHUP there are the same guests, and what was remembered before is still there."""
    with (
        simulated(tmp_path, "--domains=3") as simulator,
        service(tmp_path, simulator) as it,
    ):
        it.agent.wait_for(lambda: len(known(it)) > 0)
        before = known(it)[0]
        host = ask(it, "host")
        assert host["guests"] == {
            "active": 3,
            "running": 3,
            "paused": 0,
            "stopped": 0,
            "stuck": 0,
        }
        assert host["libvirt"]["version"].count(".") == 2
        it.send(signal.SIGHUP)
        it.until_started(2)
        it.agent.wait_for(lambda: ask(it, "host"))
        assert known(it)[0] == before
        it.agent.wait_for(lambda: ask(it, "guests")["matched"] == 3)


def test_a_guest_that_hangs_is_found(tmp_path: Path) -> None:
    """A guest whose monitor blocks its caller is stuck, in the table and among the findings."""
    with (
        simulated(tmp_path, "--domains=3") as simulator,
        service(tmp_path, simulator) as it,
    ):
        it.agent.wait_for(lambda: (ask(it, "guests") or {"matched": 0})["matched"] == 3)
        guest = ask(it, "guests?sort=name&limit=1")["guests"][0]
        simulator.do("hang", domains=[guest["name"]])
        it.agent.wait_for(
            lambda: any(
                each["finding"] == "stuck" and each["guest"]["uuid"] == guest["uuid"]
                for each in ask(it, "findings")["findings"]
            )
        )
        assert ask(it, "guests?filter=stuck:yes")["matched"] == 1
        assert ask(it, f"guests/{guest['uuid']}")["events"][0]["event"] == "stuck began"
        (began,) = it.agent.events("finding.began")
        assert began["uuid"] == guest["uuid"]
