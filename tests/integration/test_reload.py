"""Reloads and signals at every moment of an agent's life: it is never worse off than before."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.agent import Agent
from support.manager import Manager, managing, until_held
from support.ports import free_port
from support.service import HANGS, PAGE, Service, service
from support.simulator import Simulated, simulated
from virtstatd.service.signals import MEANINGLESS


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    """Run a libvirtd of three guests for all tests."""
    with simulated(tmp_path_factory.mktemp("simulator"), "--domains=3") as simulator:
        yield simulator


@pytest.fixture
def silent() -> Iterator[int]:
    """Listen at a port and answer nothing; return the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_reloads_in_each_others_way_are_all_done(tmp_path: Path, simulator: Simulated) -> None:
    """SIGHUPs while the agent ends, executes itself and starts neither kill it nor get lost."""
    with service(tmp_path, simulator) as it:
        pid = it.agent.pid
        it.send(signal.SIGHUP)
        it.agent.wait_for(lambda: it.agent.events("agent.stopped"))
        while it.starts() < 2:
            it.send(signal.SIGHUP)
        it.write(it.text(pulse=2.0))
        it.send(signal.SIGHUP)  # the last one counts, whatever the agent is doing
        it.until_pulse(2.0)
        assert it.agent.pid == pid
        assert it.agent.stop() == 0


def test_what_comes_before_the_handlers_waits_for_them(
    tmp_path: Path, simulator: Simulated
) -> None:
    """A SIGHUP and a SIGTERM in the first moments are a start, and an end without a loss."""
    it = Service(tmp_path, simulator)
    it.write(it.text())
    it.agent = Agent(it.file)
    try:
        until_held(it.agent.pid)
        it.send(signal.SIGHUP)
        it.send(signal.SIGTERM)
        assert it.ended() == 0
        assert [line["event"] for line in it.agent.log[-2:]] == ["agent.started", "agent.stopped"]
        assert it.agent.log[-1]["ending"] == "stopped"
    finally:
        it.agent.stop()


def test_signals_without_a_meaning_do_nothing(tmp_path: Path, simulator: Simulated) -> None:
    """Signals that would end any other process end this one neither early nor late."""
    it = Service(tmp_path, simulator)
    it.write(it.text())
    it.agent = Agent(it.file)
    try:
        until_held(it.agent.pid)
        for starts in 1, 2:
            for number in sorted(MEANINGLESS):
                it.send(number)
            it.until_started(starts)
            for number in sorted(MEANINGLESS):
                it.send(number)
            it.send(signal.SIGHUP)
        it.until_started(3)
        assert it.agent.stop() == 0
        assert not it.agent.events("not_json")
    finally:
        it.agent.stop()


def test_a_stop_while_a_reload_drains_is_a_stop(
    tmp_path: Path, simulator: Simulated, silent: int
) -> None:
    """SIGTERM during the drain of a reload lets it drain on, and ends with 0."""
    with service(tmp_path, simulator, HANGS.format(port=silent), drain=4.0) as it:
        it.agent.wait_for(lambda: it.pulse() is not None)  # there is something to drain
        it.send(signal.SIGHUP)
        it.until_draining()
        it.send(signal.SIGTERM)
        it.send(signal.SIGHUP)  # during a stop it means nothing
        assert it.ended() == 0
        assert [each["ending"] for each in it.agent.events("agent.stopped")] == ["stopped"]
        assert [each["sink"] for each in it.agent.events("sink.abandoned")] == ["influx"]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_the_second_stop_ends_at_once(
    tmp_path: Path, simulator: Simulated, silent: int, first: int
) -> None:
    """Whoever asks twice does not wait for the drain."""
    with service(tmp_path, simulator, HANGS.format(port=silent), drain=25.0) as it:
        it.agent.wait_for(lambda: it.pulse() is not None)
        it.send(first)
        it.until_draining()
        it.send(signal.SIGTERM)
        assert it.ended() == 1
        assert not it.agent.events("agent.stopped")


def test_a_file_that_cannot_work_here_is_refused(tmp_path: Path, simulator: Simulated) -> None:
    """A port in use, a missing secret, a missing folder: each is named, and the agent runs on."""
    with service(tmp_path, simulator) as it, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sinks = [
            PAGE.format(name='"other"', port=port),
            '[[sink]]\ntype = "remote_write"\nusername = "a"\npassword_file = "/none/pw"\n',
            '[[sink]]\ntype = "textfile"\npath = "/none/v.prom"\n',
        ]
        it.write(it.text(*sinks))
        it.send(signal.SIGHUP)
        lines = it.file.read_text().splitlines()
        faults = [
            (f'listen_address = "127.0.0.1:{port}"', "sink[1].listen_address: cannot listen at"),
            ('password_file = "/none/pw"', "sink[2].password_file: cannot read /none/pw"),
            ('path = "/none/v.prom"', "sink[3].path: cannot write /none/v.prom"),
        ]
        for told, (line, text) in zip(it.until_rejected(), faults, strict=True):
            assert told.startswith(f"{it.file}:{lines.index(line) + 1}: {text}")
        it.write("[pol]\n")
        it.send(signal.SIGHUP)
        assert it.until_rejected(2) == [f"{it.file}:1: pol: unknown table, did you mean poll?"]
        assert it.pulse() == 1.0
        assert it.starts() == 1

        it.write(it.text(pulse=2.0))
        it.send(signal.SIGHUP)
        it.until_pulse(2.0)
        assert it.agent.stop() == 0


def test_a_start_that_fails_behind_a_reload_brings_the_former_back(
    tmp_path: Path, simulator: Simulated
) -> None:
    """What no check foresaw costs a moment: the configuration before it runs on, and says why."""
    with service(tmp_path, simulator) as it:
        pid, port = it.agent.pid, free_port()
        twice = [PAGE.format(name=f'"{name}"', port=port) for name in ("one", "two")]
        twice[1] = twice[1].replace("127.0.0.1", "0.0.0.0")  # each is free by itself
        it.write(it.text(*twice, pulse=2.0))
        it.send(signal.SIGHUP)
        it.until_started(2)
        (fault,) = it.until_rejected()
        assert fault.startswith(f"{it.file}: sink[2].listen_address: cannot listen at 0.0.0.0:")
        it.until_pulse(1.0)
        assert it.agent.events("agent.started")[1]["sinks"] == ["page"]

        it.write(it.text(pulse=3.0))  # and it is no worse off than before
        it.send(signal.SIGHUP)
        it.until_pulse(3.0)
        assert it.agent.pid == pid
        assert it.agent.stop() == 0


def test_what_was_looked_at_is_what_runs(tmp_path: Path, simulator: Simulated, silent: int) -> None:
    """A file that changes while a reload drains counts with the next reload, not half of it now."""
    with service(tmp_path, simulator, HANGS.format(port=silent), drain=3.0) as it:
        it.agent.wait_for(lambda: it.pulse() is not None)
        it.write(it.text(pulse=2.0))
        it.send(signal.SIGHUP)
        it.until_draining()
        it.file.unlink()
        it.until_pulse(2.0)
        assert not it.agent.events("config.rejected")
        it.send(signal.SIGHUP)
        (fault,) = it.until_rejected()
        assert fault.startswith(f"{it.file}: there is no such file")
        assert it.pulse() == 2.0


def test_a_reload_during_the_drain_of_another_is_done_after_it(
    tmp_path: Path, simulator: Simulated, silent: int
) -> None:
    """A SIGHUP behind the look at the file survives the drain and the execution."""
    with service(tmp_path, simulator, HANGS.format(port=silent), drain=3.0) as it:
        it.agent.wait_for(lambda: it.pulse() is not None)
        it.write(it.text(pulse=2.0))
        it.send(signal.SIGHUP)
        it.until_draining()
        it.port = free_port()
        it.write(it.text(pulse=3.0))
        it.send(signal.SIGHUP)
        it.until_pulse(3.0)
        assert it.starts() == 3


def test_ports_that_are_left_are_closed(tmp_path: Path, simulator: Simulated) -> None:
    """A reload from one port to another and back keeps no listener that nobody serves."""
    with service(tmp_path, simulator) as it:
        first, second = it.port, free_port()
        for starts, (old, new) in enumerate([(first, first), (first, second), (second, first)], 2):
            it.port = new
            it.write(it.text())
            it.send(signal.SIGHUP)
            it.until_started(starts)
            assert it.serves()
            if old != new:
                it.port = old
                assert not it.serves()
        assert not it.agent.events("config.rejected")
        open_now = set()
        for each in Path(f"/proc/{it.agent.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it was closed meanwhile
                open_now.add(str(each.readlink()))
        assert open_now
        assert not any("memfd" in each for each in open_now)


def test_the_manager_hears_of_a_reload_before_it_begins(
    tmp_path: Path, simulator: Simulated
) -> None:
    """RELOADING comes first, with its time; READY follows, also where the file was rejected."""
    with (
        managing(tmp_path) as manager,
        service(tmp_path, simulator, NOTIFY_SOCKET=str(manager.path)) as it,
    ):
        it.agent.wait_for(lambda: manager.count("READY=1") == 1)
        it.write("[pol]\n")
        it.send(signal.SIGHUP)
        it.until_rejected()
        it.agent.wait_for(lambda: manager.count("READY=1") == 2)
        assert states(manager) == ["READY", "RELOADING", "READY"]
        it.agent.wait_for(
            lambda: any(each.endswith("the last reload was rejected") for each in manager.messages)
        )
        it.write(it.text())
        it.send(signal.SIGHUP)
        it.agent.wait_for(lambda: manager.count("READY=1") == 3)
        assert states(manager)[3:] == ["RELOADING", "READY"]
        moments = [re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", e) for e in manager.messages]
        assert sum(map(bool, moments)) == 2
        assert it.agent.stop() == 0
        it_said = states(manager)
    assert it_said[-1] == "STOPPING"


def states(manager: Manager) -> list[str]:
    """Return the changes of state in order."""
    names = [each.partition("=")[0] for each in list(manager.messages)]
    return [each for each in names if each in {"READY", "RELOADING", "STOPPING"}]


def test_the_watchdog_is_fed_until_the_drain_has_ended(
    tmp_path: Path, simulator: Simulated, silent: int
) -> None:
    """A drain as long as it may be is no reason to kill the agent."""
    with (
        managing(tmp_path) as manager,
        service(
            tmp_path,
            simulator,
            HANGS.format(port=silent),
            drain=4.0,
            NOTIFY_SOCKET=str(manager.path),
            WATCHDOG_USEC="300000",
        ) as it,
    ):
        it.agent.wait_for(lambda: it.pulse() is not None)
        it.send(signal.SIGTERM)
        it.until_draining()
        fed = manager.count("WATCHDOG=1")
        assert it.ended() == 0
        assert manager.count("WATCHDOG=1") - fed > 5  # ten a second for three seconds


LAUNCHER = "from virtstatd.__main__ import start\nstart()\n"


def test_no_module_is_replaced_by_a_file_nearby(tmp_path: Path, simulator: Simulated) -> None:
    """What lies where a file would come first is not imported after a reload."""
    script = tmp_path / "virtstatd-script"
    script.write_text(LAUNCHER)
    it = Service(tmp_path, simulator)
    it.write(it.text())

    class Scripted(Agent):
        program = (str(script),)

    it.agent = Scripted(it.file)
    try:
        it.until_started()
        (tmp_path / "click.py").write_text("raise SystemExit('not this one')\n")
        for starts in 2, 3:
            it.send(signal.SIGHUP)
            it.until_started(starts)
        command = Path(f"/proc/{it.agent.pid}/cmdline").read_text().split("\0")
        assert command[:-1] == [
            *(sys.executable, "-P", str(script), "run", "--config", str(it.file)),
        ]
        assert it.agent.stop() == 0
    finally:
        it.agent.stop()
