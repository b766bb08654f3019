"""Signals and files at random, at random moments: the agent runs, or was stopped; nothing else."""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.agent import Agent
from support.manager import until_held
from support.ports import free_port
from support.service import HANGS, PAGE, Service
from support.simulator import Simulated, simulated
from virtstatd.service.signals import MEANINGLESS


QUICK = 100
SOAK = 2000
BATCH = 10
SIDE_BY_SIDE = 4

WITHOUT_MEANING = sorted(MEANINGLESS)
MARK = 100.0
"""The interval that no file of the storm has."""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    """Run a libvirtd of three guests for all storms."""
    with simulated(tmp_path_factory.mktemp("simulator"), "--domains=3") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """Listen at a port, which is therefore taken, and answer nothing; return the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1000)
        yield listener.getsockname()[1]


def files(it: Service, silent: int) -> dict[str, Callable[[], str]]:
    """Return what the file may say: what works, what is wrong, and what cannot work here."""
    twice = free_port()
    return {
        "good": it.text,
        "changed": lambda: it.text(pulse=2.0),
        "hangs": lambda: it.text(HANGS.format(port=silent), drain=1.5),
        "other port": lambda: moved(it).text(),
        "malformed": lambda: "[hypervisor\n",
        "wrong": lambda: "[pol]\n",
        "port taken": lambda: it.text(PAGE.format(name='"taken"', port=silent)),
        "secret missing": lambda: it.text(
            '[[sink]]\ntype = "influx"\ntoken_file = "/none/token"\n', pulse=3.0
        ),
        "fails at the start": lambda: it.text(
            *(PAGE.format(name=f'"{name}"', port=twice) for name in ("one", "two"))
        ),
    }


def moved(it: Service) -> Service:
    """Choose another port for the page."""
    it.port = free_port()
    return it


def storm(it: Service, silent: int, chance: random.Random) -> list[str]:
    """Send and write what comes to mind; return what it was, the last being a stop or not."""
    kinds = files(it, silent)
    done: list[str] = []

    def pause() -> None:
        lines = len(it.agent.log)
        end = time.monotonic() + chance.choice([0.0, 0.01, 0.1, 0.5, 1.5])
        for_a_line = chance.random() < 0.5
        while time.monotonic() < end and not (for_a_line and len(it.agent.log) > lines):
            time.sleep(0.001)

    for _ in range(chance.randint(3, 9)):
        what = chance.choices(["hangup", "write", "nothing", "end"], [6, 4, 2, 0.5])[0]
        if what == "hangup":
            it.send(signal.SIGHUP)
        elif what == "nothing":
            number = chance.choice(WITHOUT_MEANING)
            done.append(f"signal {number}")
            it.send(number)
        elif what == "write" and it.starts():  # the first start is not behind a reload
            name = chance.choice([*kinds])
            done.append(name)
            it.write(kinds[name]())
        elif what == "end":
            done.append("end")
            it.send(chance.choice([signal.SIGTERM, signal.SIGINT]))
            return done
        done.append(what)
        pause()
    return done


def weathered(folder: Path, simulator: Simulated, silent: int, seed: int) -> None:
    """Run an agent through one storm, and look at what has become of it."""
    it = Service(folder, simulator)
    it.write(it.text())
    it.agent = Agent(it.file)
    done: list[str] = []
    try:
        until_held(it.agent.pid)
        done = storm(it, silent, random.Random(seed))
        if done[-1] != "end":
            it.write(moved(it).text(pulse=MARK))  # the last reload is never lost
            it.send(signal.SIGHUP)
            it.until_pulse(MARK)
            it.send(signal.SIGTERM)
        assert it.ended() == 0
        last = it.agent.log[-1]
        assert (last["event"], last["ending"]) == ("agent.stopped", "stopped")
        assert not it.agent.events("not_json")
        assert not it.agent.events("agent.refused")
    except BaseException:
        print(f"seed {seed}: {done}; log: {it.agent.log[-20:]}")
        raise
    finally:
        it.agent.stop()


def weather(folder: Path, simulator: Simulated, silent: int, seeds: range) -> None:
    """Run a storm for each seed, some side by side: the host may be busy."""

    def run(seed: int) -> None:
        own = folder / str(seed)
        own.mkdir()
        weathered(own, simulator, silent, seed)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for _ in pool.map(run, seeds):
            pass


@pytest.mark.parametrize("first", range(0, QUICK, BATCH))
def test_no_signal_ends_it_by_accident(
    tmp_path: Path, simulator: Simulated, silent: int, first: int
) -> None:
    """Whatever comes in whichever moment: running with the last good file, or stopped with 0."""
    weather(tmp_path, simulator, silent, range(first, first + BATCH))


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
def test_no_signal_ends_it_by_accident_in_thousands(
    tmp_path: Path, simulator: Simulated, silent: int
) -> None:
    """The same, often."""
    weather(tmp_path, simulator, silent, range(QUICK, SOAK))
