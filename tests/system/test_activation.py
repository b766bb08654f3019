"""
A daemon that systemd starts for its clients, and that ends when it has none.

Debian's libvirtd does so as the modular daemons do, with the same code; here it has their socket
and their pid file.
"""

import json
from collections.abc import Iterator
from functools import partial

import pytest

from support.servers import needs
from system.support.machine import Machine, until
from system.support.service import CONFIGURATION, NAME, NEEDS, scrape, start


DAEMON = "libvirtd.service"
SOCKETS = ("libvirtd.socket", "libvirtd-ro.socket")
UNITS = "/run/systemd/system"
IDLE_SECONDS = 1

# libvirtd knows the sockets that it is handed by the names of their units
SOCKET = """
[Socket]
ListenStream=/run/libvirt/virtqemud-sock{suffix}
SocketMode=0666
RemoveOnStop=yes
Service=libvirtd.service
"""
SERVICE = """
[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
TemporaryFileSystem=/etc/libvirt
Environment=IDLE_SECONDS=120
ExecStart=/usr/sbin/libvirtd --config=/run/hypervisor.conf --pid-file=/run/virtqemud.pid \
--timeout=${IDLE_SECONDS}
Restart=on-failure
RestartSec=100ms
"""
EVERY_SECOND = "".join(
    f"[{table}]\ninterval_seconds = 1\n"
    for table in ("poll.pulse", "poll.monitor", "poll.extra", "agent")
)

pytestmark = [*NEEDS, needs("libvirtd")]


@pytest.fixture
def hypervisor(machine: Machine) -> Iterator[Machine]:
    """Let systemd listen for a daemon that is not started yet, and the agent ask every second."""
    machine.run("systemctl", "stop", "libvirtd*", "virtlog*", "virtlock*")
    machine.run("useradd", "--system", "libvirt-qemu", check=False)  # libvirt looks for it
    machine.write("/run/hypervisor.conf", 'auth_unix_ro = "none"\n')
    machine.write(f"{UNITS}/libvirtd.socket", SOCKET.format(suffix=""))
    machine.write(f"{UNITS}/libvirtd-ro.socket", SOCKET.format(suffix="-ro"))
    machine.write(f"{UNITS}/{DAEMON}", SERVICE)
    machine.write(CONFIGURATION, EVERY_SECOND)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", *SOCKETS)
    yield machine
    machine.run("systemctl", "stop", NAME, *SOCKETS, DAEMON)
    machine.run("rm", "-rf", f"{UNITS}/{DAEMON}.d", *(f"{UNITS}/{u}" for u in (*SOCKETS, DAEMON)))


def change(machine: Machine, *lines: str) -> None:
    """Change the daemon's unit until the end of the test; without lines it is as it was."""
    machine.write(f"{UNITS}/{DAEMON}.d/test.conf", "\n".join(["[Service]", *lines, ""]))
    machine.run("systemctl", "daemon-reload")


def active(machine: Machine) -> str:
    """Return whether the daemon runs, in systemd's words."""
    return machine.show(DAEMON)["ActiveState"]


def wait(machine: Machine, line: str) -> None:
    """Wait for a line of the page."""
    until(lambda: line in scrape(machine), line)


def let_pass(machine: Machine, intervals: int) -> None:
    """Wait until the agent has gone through so many intervals."""

    def ticks() -> int:
        name = 'virtstatd_ticks_total{tier="pulse"} '
        return next((int(x.split()[1]) for x in scrape(machine) if x.startswith(name)), 0)

    begun = ticks()
    until(lambda: ticks() >= begun + intervals, f"{intervals} intervals")


def transitions(machine: Machine) -> list[str]:
    """Return what the agent logged of libvirt."""
    events = [json.loads(line)["event"] for line in machine.journal(NAME)]
    return [event for event in events if event.startswith(("libvirt.", "poll."))]


def test_an_idle_daemon_is_woken_once_and_kept(hypervisor: Machine):
    """The agent's connection starts it and keeps it; without the agent it ends when idle."""
    change(hypervisor, f"Environment=IDLE_SECONDS={IDLE_SECONDS}")
    assert active(hypervisor) == "inactive"
    start(hypervisor)
    wait(hypervisor, "libvirt_up 1")
    first = hypervisor.show(DAEMON)["MainPID"]
    let_pass(hypervisor, 3 * IDLE_SECONDS)
    assert hypervisor.show(DAEMON)["MainPID"] == first
    hypervisor.run("systemctl", "stop", NAME)
    until(lambda: active(hypervisor) == "inactive", "the end of an idle daemon")
    assert hypervisor.show(DAEMON)["Result"] == "success"
    assert transitions(hypervisor) == ["libvirt.connected"]


def test_a_stopped_daemon_stays_stopped(hypervisor: Machine):
    """An administrator stops the daemon and not its sockets: the agent waits for its return."""
    start(hypervisor)
    wait(hypervisor, "libvirt_up 1")
    hypervisor.run("systemctl", "stop", DAEMON)
    wait(hypervisor, "libvirt_up 0")
    let_pass(hypervisor, 4)
    assert active(hypervisor) == "inactive"
    hypervisor.run("systemctl", "start", DAEMON)
    wait(hypervisor, "libvirt_up 1")
    assert transitions(hypervisor) == ["libvirt.connected", "libvirt.lost", "libvirt.connected"]


def test_a_daemon_that_dies_is_used_again(hypervisor: Machine):
    """It is systemd that starts it anew, once; the agent is there when it is back."""
    start(hypervisor)
    wait(hypervisor, "libvirt_up 1")
    for _ in range(3):
        died = hypervisor.show(DAEMON)["MainPID"]
        hypervisor.run("kill", "-KILL", died)
        until(
            partial(lambda died: hypervisor.show(DAEMON)["MainPID"] not in ("0", died), died),
            "another",
        )
        wait(hypervisor, "libvirt_up 1")
    assert hypervisor.show(DAEMON)["NRestarts"] == "3"


def test_a_daemon_that_cannot_start_is_not_started_by_us(hypervisor: Machine):
    """Somebody who asks every second would make systemd give up the socket, for all."""
    start(hypervisor)
    wait(hypervisor, "libvirt_up 1")
    change(hypervisor, "ExecStart=", "ExecStart=false", "Restart=no")
    hypervisor.run("kill", "-KILL", hypervisor.show(DAEMON)["MainPID"])
    wait(hypervisor, "libvirt_up 0")
    before = hypervisor.show(DAEMON)["InvocationID"]
    let_pass(hypervisor, 4)
    assert hypervisor.show(DAEMON)["InvocationID"] == before
    assert hypervisor.show(SOCKETS[1])["SubState"] == "listening"
    change(hypervisor)
    hypervisor.run("systemctl", "start", DAEMON)
    wait(hypervisor, "libvirt_up 1")
