"""Which process runs which guest, where the kernel does not answer for every one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import Tree
from virtstatd.hypervisor.processes import COMMAND_BYTES, HANGING_MAX, Processes
from virtstatd.runtime.kernel_files import Folder


UUID = "{:08x}-1111-4111-8111-111111111111"


class Host:
    """Guests, the command lines of some of which are held by somebody."""

    def __init__(self, folder: Path) -> None:
        self.tree = Tree(folder)
        self.go = threading.Event()
        self.held: set[str] = set()
        self.reads: list[str] = []
        self.threads: list[threading.Thread] = []
        self.processes = Processes(self.tree.pids, self.tree.proc, command=self._command)

    def start(self, *numbers: int) -> None:
        """Start guests."""
        for number in numbers:
            self.tree.start(number, UUID.format(number), f"vm{number}", number)

    def look(self) -> list[int]:
        """Look; return whose processes are known."""
        self.processes.look()
        return sorted(self.processes.found)

    def _command(self, folder: Folder) -> bytes:
        command = folder.read("cmdline", COMMAND_BYTES)
        name = command.split(b"guest=")[1].split(b"\0")[0].decode()
        self.reads.append(name)
        if name in self.held:
            self.threads.append(threading.current_thread())
            self.go.wait(30)
        return command


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Make a host; in the end no thread is left."""
    host = Host(tmp_path)
    yield host
    host.go.set()
    for thread in host.threads:
        thread.join(10)
    host.processes.close()


def test_a_process_that_hangs_stops_no_look(host: Host):
    """The others are found; it is named, skipped, and found when the kernel answers."""
    host.held = {"vm2"}
    host.start(1, 2, 3)
    assert host.look() == [1, 3]
    assert host.processes.hanging == {2: "vm2.pid"}
    assert host.look() == [1, 3]
    assert host.reads.count("vm2") == 1, "it is not read again while it hangs"

    host.go.set()
    host.threads[0].join(10)
    assert host.look() == [1, 2, 3]
    assert host.processes.hanging == {}


def test_no_more_than_some_threads_are_left_behind(host: Host):
    """What hangs them all holds a few threads, and those that are known stay so."""
    host.start(1)
    assert host.look() == [1]
    host.held = {f"vm{number}" for number in range(2, 20)}
    host.start(*range(2, 20))
    assert host.look() == [1]
    assert host.look() == [1]
    assert len(host.threads) == len(host.processes.hanging) == HANGING_MAX
    host.held = set()
    host.go.set()
    for thread in host.threads:
        thread.join(10)
    assert host.look() == list(range(1, 20))


def test_a_process_that_ended_while_it_hung_is_forgotten(host: Host):
    """Nothing is kept of it, and the next one under its number is read."""
    host.held = {"vm2"}
    host.start(2)
    assert host.look() == []
    host.tree.end(2, "vm2")
    host.go.set()
    host.threads[0].join(10)
    assert host.look() == []
    assert (host.processes.hanging, host.processes._reads) == ({}, {})
    host.held = set()
    host.start(2)
    assert host.look() == [2]
