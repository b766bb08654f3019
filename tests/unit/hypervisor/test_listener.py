"""Who listens behind a socket, and when connecting to it would start somebody."""

from __future__ import annotations

import fcntl
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from virtstatd.hypervisor.listener import Listener, listener_of


LOCKS = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen, as systemd does for a daemon."""
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield server


@contextmanager
def locked(file: Path) -> Iterator[int]:
    """Hold the lock on a pid file in another process, as a daemon does while it lives."""
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCKS, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin
    assert holder.stdout
    try:
        holder.stdout.readline()
        yield holder.pid
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait()


@pytest.mark.parametrize(
    ("name", "daemon"),
    [
        ("virtqemud-sock-ro", "virtqemud"),
        ("libvirt-sock-ro", "libvirtd"),
        ("libvirt-sock-ro", "virtproxyd"),
    ],
)
def test_a_daemon_lives_while_its_pid_file_is_locked(tmp_path: Path, name: str, daemon: str):
    """A file that was left behind, whatever it says, is no sign of life; the lock is."""
    path = tmp_path / "libvirt" / name
    file = tmp_path / f"{daemon}.pid"
    file.write_text("1\n")
    listener = Listener(path)
    with listening(path):
        assert (listener.pid(), listener.asleep()) == (0, True)
        with locked(file) as pid:
            assert (listener.pid(), listener.asleep()) == (pid, False)
        assert (listener.pid(), listener.asleep()) == (0, True)


def test_looking_takes_nothing_from_the_daemon(tmp_path: Path):
    """The lock is there for the daemon to take after it was looked at, and before."""
    path = tmp_path / "libvirt" / "libvirt-sock-ro"
    file = tmp_path / "libvirtd.pid"
    file.touch()
    listener = Listener(path)
    assert listener.pid() == 0
    with file.open("w") as taking:
        fcntl.lockf(taking, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)


def test_a_socket_that_nobody_serves_is_not_asleep(tmp_path: Path):
    """Connecting to what a dead daemon has left behind starts nobody."""
    path = tmp_path / "libvirt" / "libvirt-sock-ro"
    with listening(path):
        pass
    assert path.is_socket()
    assert not Listener(path).asleep()
    assert not Listener(path).deserted()


def test_a_daemon_is_deserted_when_it_hung_up_on_everybody(tmp_path: Path):
    """One client that is connected, whoever it is, says that the daemon goes on."""
    path = tmp_path / "libvirt" / "libvirt-sock-ro"
    listener = Listener(path)
    with listening(path) as server, ExitStack() as stack:
        assert listener.deserted()
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(str(path))
        served, _ = server.accept()
        assert not listener.deserted()
        served.close()
        assert listener.deserted()


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("qemu:///system", "found"),
        ("qemu+unix:///system?socket=/run/libvirt/virtqemud-sock-ro", "virtqemud-sock-ro"),
        ("qemu+ssh://host/system", None),
        ("qemu+tcp://host/system?socket=/run/x", None),
        ("test:///default", None),
    ],
)
def test_only_daemons_of_this_host_are_looked_at(uri: str, name: str | None):
    """What is behind another host's socket cannot be seen."""
    listener = listener_of(uri, "qemu+unix:///system?socket=/run/libvirt/found")
    assert (listener._name if listener else None) == name
