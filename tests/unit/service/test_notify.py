"""What systemd hears, read from a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtstatd.service.notify import Notify


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Open the service manager's end, and give the address as the environment has it."""
    address = f"@virtstatd-{tmp_path}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        receiver.settimeout(100)
        yield receiver, address


def test_each_state_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    """Every method sends its state as sd_notify(3) spells it, on both kinds of socket."""
    receiver, address = manager
    notify = Notify({"NOTIFY_SOCKET": address})
    before = time.monotonic_ns() // 1000
    assert notify.ready("serving")
    assert notify.status("3 domains")
    assert notify.watchdog()
    assert notify.reloading()
    assert notify.stopping()
    assert receiver.recv(4096) == b"READY=1\nSTATUS=serving"
    assert receiver.recv(4096) == b"STATUS=3 domains"
    assert receiver.recv(4096) == b"WATCHDOG=1"
    state, moment = receiver.recv(4096).decode().split("\n")
    assert state == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert receiver.recv(4096) == b"STOPPING=1"


def test_a_status_cannot_smuggle_in_another_assignment(manager: tuple[socket.socket, str]) -> None:
    """A line break or an escape sequence in a status stays within the one status line."""
    receiver, address = manager
    assert Notify({"NOTIFY_SOCKET": address}).status("a\nMAINPID=1\x1b[2J\ud800" + "x" * 100_000)
    message = receiver.recv(1 << 20)
    assert message.startswith(b"STATUS=a?MAINPID=1?[2J?xxx")
    assert message.count(b"\n") == 0
    assert len(message) < 2000


@pytest.mark.parametrize(
    "address", ["", "relative", "@", "vsock:2:1234", "/nowhere/at/all", "/tmp/\0x", "/" + "x" * 300]
)
def test_nobody_listens_and_nothing_happens(address: str) -> None:
    """Without a socket, or with one that cannot be reached, every method just says no."""
    notify = Notify({"NOTIFY_SOCKET": address} if address else {})
    sent = [notify.ready(), notify.status("x"), notify.watchdog(), notify.stopping()]
    assert sent == [False] * 4
    assert not notify.reloading()


def test_a_full_queue_is_not_waited_for(tmp_path: Path) -> None:
    """When the manager does not read, messages are refused at once instead of blocking."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        notify = Notify({"NOTIFY_SOCKET": address})
        sent = sum(notify.watchdog() for _ in range(5000))
        assert 0 < sent < 5000
        receiver.recv(100)
        assert notify.watchdog()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """A thousand messages, sent or refused, leave no descriptor behind."""
    notify = Notify({"NOTIFY_SOCKET": str(tmp_path / "absent")})
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(1000):
        notify.watchdog()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_meant_for_this_process(
    environ: dict[str, str], seconds: float | None
) -> None:
    """The interval counts only when it is a number and meant for this very process."""
    assert Notify(environ).watchdog_seconds() == seconds
