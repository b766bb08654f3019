"""When the agent connects, and when it leaves a daemon alone."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import libvirt
import pytest

from virtstatd.errors import Disconnected
from virtstatd.hypervisor.faults import unreachable
from virtstatd.hypervisor.lanes import Session
from virtstatd.hypervisor.listener import Listener
from virtstatd.hypervisor.sockets import (
    ENDING_SECONDS,
    WAKE_SECONDS,
    Opener,
    detected_uri,
    read_write_uri,
)


@dataclass
class Host:
    """A daemon and who would start it; connecting to it is counted."""

    pid: int = 0
    listens: bool = True
    connected: bool = True
    starts: bool = True
    hidden: bool = False
    connects: int = 0
    now: float = 0.0
    later: list[int] = field(default_factory=list)

    def connect(self, *_: object) -> Session:
        """Connect, which starts what is asleep."""
        self.connects += 1
        if not self.pid and not (self.listens and self.starts):
            raise libvirt.libvirtError("no daemon")
        self.pid = self.pid or 1000 + self.connects
        self.connected = True
        return Session(None)

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def pause(self, seconds: float) -> None:
        """Let time pass, and what is to happen in it."""
        self.now += seconds
        if self.later:
            self.pid = self.later.pop(0)


class Seen(Listener):
    """What there is to see of the host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def pid(self) -> int:
        """Tell the daemon's process."""
        return 0 if self._host.hidden else self._host.pid

    def asleep(self) -> bool:
        """Tell whether somebody else listens."""
        return self._host.listens and not self.pid()

    def deserted(self) -> bool:
        """Tell whether nobody is connected."""
        return not self._host.connected


def opener(host: Host) -> Opener:
    """Return what opens connections to it."""
    return Opener("", 5, 3, lambda *_: Seen(host), host.connect, host.clock, host.pause)


def test_a_daemon_that_was_stopped_is_left_alone():
    """However often we try, and however long: only who stopped it starts it again."""
    host = Host(pid=7)
    opens = opener(host)
    opens()
    host.pid, host.connected = 0, False
    for _ in range(1000):
        with pytest.raises(Disconnected):
            opens()
        host.now += 3
    assert host.connects == 1
    host.pid = 8
    opens()
    assert host.connects == 2


def test_a_daemon_that_sleeps_when_we_come_is_woken():
    """It has ended because nobody wanted anything; now somebody does."""
    host = Host(pid=0)
    opener(host)()
    assert host.pid


def test_a_daemon_that_does_not_come_up_is_woken_seldom():
    """Systemd gives up a unit that it has to start too often; that shall not be our doing."""
    host = Host(pid=0, starts=False)
    opens = opener(host)
    for _ in range(100):
        with pytest.raises((libvirt.libvirtError, Disconnected)):
            opens()
        host.now += 3
    assert host.connects == 300 / WAKE_SECONDS


def test_what_kept_us_from_waking_a_daemon_is_what_is_told():
    """Between two attempts the reason is that of the last one, which an operator can fix."""
    host = Host(pid=0, starts=False)
    opens = opener(host)
    with pytest.raises(libvirt.libvirtError):
        opens()
    with pytest.raises(Disconnected, match="no daemon"):
        opens()


def test_a_daemon_that_is_about_to_end_is_waited_for():
    """It has hung up on everybody and still runs: to connect now would start it right after."""
    host = Host(pid=7)
    opens = opener(host)
    opens()
    host.connected, host.later = False, [7, 7, 7, 0]
    with pytest.raises(Disconnected):
        opens()
    assert host.connects == 1


def test_a_daemon_that_was_replaced_is_connected_to_at_once():
    """Another process holds the pid file: that one is there to stay."""
    host = Host(pid=7)
    opens = opener(host)
    opens()
    host.connected, host.later = False, [7, 8]
    opens()
    assert host.connects == 2
    assert host.now < ENDING_SECONDS / 2


def test_a_daemon_that_goes_on_is_connected_to_again():
    """One that hung up on us and lives on is asked again, soon."""
    host = Host(pid=7)
    opens = opener(host)
    opens()
    host.connected = False
    opens()
    assert host.connects == 2
    assert host.now < ENDING_SECONDS + 0.1
    opens()
    assert host.now < ENDING_SECONDS + 0.2


def test_where_a_daemon_cannot_be_seen_it_is_always_tried():
    """Its pid file may be elsewhere: whatever there is to see then says nothing."""
    host = Host(pid=7, hidden=True)
    opens = opener(host)
    for _ in range(5):
        opens()
    assert host.connects == 5


def test_a_daemon_that_cannot_be_seen_is_connected_to_from_several_threads_at_once():
    """While one connection is being opened another is neither late nor refused."""
    host = Host(pid=7, hidden=True)

    def connect(*_: object) -> Session:
        session = host.connect()
        if host.connects == 2:
            opens()
        return session

    opens = Opener("", 5, 3, lambda *_: Seen(host), connect, host.clock, host.pause)
    opens()
    opens()
    assert host.connects == 3


def test_where_nobody_listens_it_is_always_tried():
    """Without systemd a connection is refused, and starts nothing."""
    host = Host(pid=7, listens=False)
    opens = opener(host)
    opens()
    host.pid = 0
    for _ in range(5):
        with pytest.raises(libvirt.libvirtError):
            opens()
    assert host.connects == 6


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (("virtqemud-sock-ro", "libvirt-sock-ro"), "virtqemud-sock-ro"),
        (("libvirt-sock-ro",), "libvirt-sock-ro"),
        (("libvirt-sock",), "libvirt-sock-ro"),
        ((), "libvirt-sock-ro"),
    ],
)
def test_the_modular_daemon_comes_first(tmp_path: Path, there: tuple[str, ...], expected: str):
    """Of several read-only sockets it is QEMU's own daemon's; without any, the one to wait for."""
    with ExitStack() as stack:
        for name in there:
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(tmp_path / name))
        found = detected_uri((tmp_path,))
    assert found == f"qemu+unix:///system?socket={tmp_path}/{expected}"


@pytest.mark.parametrize("left_over", ["virtqemud-sock-ro", "libvirt-sock-ro"])
def test_a_socket_that_is_left_over_is_none(tmp_path: Path, left_over: str):
    """Where one daemon is gone and the other works, that one is found without knocking."""
    working = ({"virtqemud-sock-ro", "libvirt-sock-ro"} - {left_over}).pop()
    with socket.socket(socket.AF_UNIX) as gone, socket.socket(socket.AF_UNIX) as server:
        gone.bind(str(tmp_path / left_over))
        server.bind(str(tmp_path / working))
        server.listen()
        assert detected_uri((tmp_path,)).endswith(f"={tmp_path}/{working}")


def test_the_first_that_answers_is_connected_to(tmp_path: Path):
    """Who listens may not be seen: then whoever answers is right, and all errors mean none."""
    asked: list[str] = []
    alive = {"libvirt-sock-ro"}

    def connect(uri: str, *_: object) -> Session:
        asked.append(uri.rpartition("/")[2])
        if asked[-1] not in alive:
            raise libvirt.libvirtError(f"refused by {asked[-1]}")
        return Session(None)

    opens = Opener("", 5, 3, lambda *_: None, connect, directories=(tmp_path,))
    with ExitStack() as stack:
        for name in ("virtqemud-sock-ro", "libvirt-sock-ro"):
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(tmp_path / name))
        opens()
        assert asked == ["virtqemud-sock-ro", "libvirt-sock-ro"]
        alive.clear()
        with pytest.raises(libvirt.libvirtError, match="virtqemud"):
            opens()


def test_a_daemon_that_was_stopped_is_left_alone_beside_another_one(tmp_path: Path):
    """It is not started, nor is the other one asked, which may hand the question on to it."""
    host = Host(pid=7)
    opens = Opener(
        "", 5, 3, lambda *_: Seen(host), host.connect, host.clock, host.pause, (tmp_path,)
    )
    with ExitStack() as stack:
        for name in ("virtqemud-sock-ro", "libvirt-sock-ro"):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(tmp_path / name))
            server.listen()
        opens()
        host.pid, host.connected = 0, False
        for _ in range(100):
            with pytest.raises(Disconnected):
                opens()
            host.now += 3
    assert host.connects == 1


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (
            "qemu+unix:///system?socket=/run/libvirt/virtqemud-sock-ro",
            "qemu+unix:///system?socket=/run/libvirt/virtqemud-sock",
        ),
        (
            "qemu+unix:///system?no=1&socket=/a-ro&b=c-ro",
            "qemu+unix:///system?no=1&socket=/a&b=c-ro",
        ),
        ("qemu+unix:///system?socket=/run/libvirt/libvirt-sock", None),
        ("qemu:///system", None),
        ("qemu+tls://host-ro/system", None),
    ],
)
def test_the_read_write_socket_is_the_read_only_ones_neighbour(uri: str, expected: str | None):
    """Where the URI names no read-only socket it is the same."""
    assert read_write_uri(uri) == (expected or uri)


@pytest.mark.parametrize(
    ("socket", "fix"), [("libvirt-sock", "group libvirt"), ("virtqemud-sock-ro", "unix_sock_ro")]
)
def test_each_socket_has_its_own_fix(socket: str, fix: str):
    """A read-write socket that is closed needs another group, not other permissions."""
    message = f"Failed to connect socket to '/run/libvirt/{socket}': Permission denied"
    error = libvirt.libvirtError(message)
    error.err = (38, 7, message, 2, "", "", "", 13, 0)
    assert fix in str(unreachable(error))
