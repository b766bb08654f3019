"""Signals, reloads and files at random under a real systemd: active, or stopped; nothing else."""

from __future__ import annotations

import random
import signal
import time
from functools import partial

import pytest

from system.support.machine import Machine, until
from system.support.service import CONFIGURATION, NAME, NEEDS, scrape, start
from virtstatd.service.signals import MEANINGLESS


pytestmark = NEEDS

WITHOUT_MEANING = sorted(MEANINGLESS)
FILES = {
    "good": "",
    "changed": "[poll.pulse]\ninterval_seconds = 2.0\n",
    "malformed": "[hypervisor\n",
    "wrong": "[pol]\n",
    "port taken": '[[sink]]\ntype = "prometheus"\nname = "other"\nlisten_address = "1.2.3.4:1"\n',
    "secret missing": '[[sink]]\ntype = "influx"\ntoken_file = "/none/token"\n',
}
MARKED = "[poll.pulse]\ninterval_seconds = {mark:.1f}\n"


def runs_at(machine: Machine, mark: float) -> bool:
    """Tell whether the service is active, no longer reloading, and has an interval."""
    if machine.show(NAME)["ActiveState"] != "active":
        return False
    start = 'virtstatd_configured_interval_seconds{tier="pulse"} '
    lines = [line for line in scrape(machine) if line.startswith(start)]
    return bool(lines) and float(lines[0].rpartition(" ")[2]) == mark


def send(machine: Machine, number: int) -> None:
    """Send a signal to the service's first process."""
    machine.run("systemctl", "kill", f"--signal={number}", "--kill-who=main", NAME)


def storm(machine: Machine, chance: random.Random) -> list[str]:
    """Send and write what comes to mind; return what it was."""
    done: list[str] = []
    for _ in range(chance.randint(3, 8)):
        what = chance.choices(["reload", "hangup", "nothing", "write"], [3, 3, 2, 4])[0]
        if what == "write":
            what = chance.choice([*FILES])
            machine.write(CONFIGURATION, FILES[what])
        elif what == "reload":
            machine.run("systemctl", "reload", "--no-block", NAME, check=False)
        else:
            number = int(signal.SIGHUP)
            if what == "nothing":
                number = chance.choice(WITHOUT_MEANING)
                what = f"signal {number}"
            send(machine, number)
        done.append(what)
        time.sleep(chance.choice([0.0, 0.01, 0.1, 0.5]))
    return done


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.soak)])
@pytest.mark.timeout(3600)
def test_no_signal_ends_the_service_by_accident(machine: Machine, count: int):
    """After each storm it has the last good file without a restart, and a stop is a success."""
    for seed in range(count):
        machine.write(CONFIGURATION, FILES["good"])
        machine.run("systemctl", "reset-failed", NAME, check=False)
        start(machine)
        pid = machine.show(NAME)["MainPID"]
        done = storm(machine, random.Random(seed))
        mark = 100.0 + seed
        machine.write(CONFIGURATION, MARKED.format(mark=mark))
        send(machine, signal.SIGHUP)
        until(partial(runs_at, machine, mark), f"the last file after {done}")
        shown = machine.show(NAME)
        assert (shown["MainPID"], shown["NRestarts"]) == (pid, "0"), done
        machine.run("systemctl", "stop", NAME)
        shown = machine.show(NAME)
        assert (shown["ActiveState"], shown["Result"]) == ("inactive", "success"), done
    stopped = [line for line in machine.journal(NAME) if '"agent.stopped"' in line]
    assert len([line for line in stopped if '"stopped"' in line]) == count
