"""The lab itself: what other tests take for granted about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from lab.support.fixtures import HOSTILE_NAMES, MANY
from lab.support.hypervisor import Lab
from lab.support.keeper import cgroup_versions
from lab.support.machine import LabError, check_machine, wait_until
from lab.support.namespaces import Trace


OWNER = """
import json, signal
from lab.support.hypervisor import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it came as ignored
with Lab() as lab:
    lab.paused_guests(2)
    trace = [str(lab.directory), lab.trace.netns, list(map(str, lab.trace.groups))]
    print(json.dumps(trace), flush=True)
    signal.pause()
"""


@contextmanager
def asking(lab: Lab, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run virsh beside the test."""
    argv = ["virsh", "--connect", lab.uri, *args]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as virsh:
        try:
            yield virsh
        finally:
            virsh.kill()


def host_taps() -> set[str]:
    """Return the names of this network namespace's interfaces."""
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_every_guest_runs(lab: Lab):
    """Paused, live and hostile guests are all there, under exactly the names they were given."""
    expected = {*(f"guest-{number}" for number in range(9)), *HOSTILE_NAMES, "live"}
    assert set(lab.names()) == expected
    listed = lab.virsh("list", "--name")
    for name in expected:
        assert f"{name}\n" in listed
        assert lab.stats(name)["state.state"] == ("1" if name == "live" else "3")
        command = Path(f"/proc/{lab.qemu_pid(name)}/cmdline").read_text()
        assert lab.definitions[name].uuid in command


def test_many_guests_run_at_once(many: Lab):
    """Three hundred guests run side by side, each with a QEMU of its own."""
    names = many.names()
    assert len(names) == MANY
    assert len({many.qemu_pid(name) for name in names}) == MANY


def test_both_sockets_answer_from_outside(lab: Lab):
    """A client outside the namespaces reaches the read-write and the read-only socket."""
    for uri in (lab.uri, f"{lab.uri_readonly}"):
        argv = ["virsh", "--readonly", "--connect", uri, "list", "--name"]
        assert "guest-0" in subprocess.check_output(argv, text=True).splitlines()
    assert "maxWorkers" in lab.virt_admin("srv-threadpool-info", "libvirtd")


@pytest.mark.kvm
def test_paused_guests_have_kvm_statistics(lab: Lab):
    """A guest of type kvm reports KVM's own statistics per guest and per vCPU."""
    stats = lab.stats("guest-0")
    assert "vcpu.3.exits.sum" in stats
    assert any(key.startswith("vm.") for key in stats)


def test_the_live_guest_moves(lab: Lab):
    """Disk, network and balloon counters of the live guest go up by themselves."""
    before = lab.stats("live")
    for key in (
        "block.0.rd.bytes",
        "block.0.wr.bytes",
        "block.0.fl.reqs",
        "net.0.rx.bytes",
        "net.0.tx.bytes",
        "balloon.last-update",
        "balloon.minor_fault",
    ):
        wait_until(
            partial(lambda key: int(lab.stats("live")[key]) > int(before[key]), key),
            f"{key} to rise",
        )


def test_paused_guests_have_quiet_taps(lab: Lab):
    """Nothing sends packets to a paused guest, so its numbers are constant."""
    assert lab.stats("guest-0")["net.0.tx.pkts"] == "0"
    assert lab.stats("guest-0")["net.0.rx.pkts"] == "0"


@pytest.mark.parametrize("end", [Lab.stop, Lab.kill])
def test_guests_survive_their_daemon(private_lab: Lab, end: Callable[[Lab], None]):
    """A stopped or killed libvirtd that starts again finds the same processes."""
    before = {name: private_lab.qemu_pid(name) for name in private_lab.names()}
    first = private_lab.pid
    end(private_lab)
    with pytest.raises(LabError):
        private_lab.virsh("list")
    private_lab.start()
    assert private_lab.pid != first
    assert {name: private_lab.qemu_pid(name) for name in private_lab.names()} == before
    assert len(before) == 4


def test_a_stuck_guest_holds_a_call_until_it_continues(private_lab: Lab):
    """A call that needs the monitor waits for a stuck guest, and ends well after it."""
    uuid = private_lab.uuid("guest-1")
    with asking(private_lab, "domstats", "--block") as virsh:
        assert "Domain: 'guest-1'" in virsh.communicate()[0]
    with private_lab.stuck("guest-1"), asking(private_lab, "domstats", "--block") as virsh:
        wait_until(lambda: "occupied" in private_lab.virsh("domcontrol", uuid), "the call")
        assert "block.count" in private_lab.virsh("domstats", "--raw", private_lab.uuid("guest-0"))
        assert virsh.poll() is None
        os.kill(private_lab.qemu_pid("guest-1"), signal.SIGCONT)
        assert "Domain: 'guest-1'" in virsh.communicate()[0]
    assert "ok" in private_lab.virsh("domcontrol", uuid)


def test_a_frozen_daemon_answers_nobody(private_lab: Lab):
    """A frozen libvirtd takes connections and does not answer until it is thawed."""
    with private_lab.frozen(), pytest.raises(subprocess.TimeoutExpired):
        private_lab.virsh("list", timeout=1)
    assert len(private_lab.names()) == 4


def test_devices_come_and_go(private_lab: Lab):
    """Disks are plugged in and out of a paused guest, NICs in."""
    assert private_lab.attach_disk("guest-0") == "sda"
    assert private_lab.stats("guest-0")["block.2.name"] == "sda"
    private_lab.detach_disk("guest-0", "sda")
    assert private_lab.stats("guest-0")["block.count"] == "2"
    tap, _ = private_lab.attach_nic("guest-0")
    assert private_lab.taps("guest-0")[1] == tap
    assert private_lab.stats("guest-0")["net.1.name"] == tap
    assert tap not in host_taps()


def test_a_live_guest_lets_a_nic_go(lab: Lab):
    """A NIC that is plugged into the live guest can be unplugged again."""
    tap, mac = lab.attach_nic("live")
    assert tap in lab.taps("live")
    lab.detach_nic("live", mac)
    wait_until(lambda: tap not in lab.taps("live"), "the NIC to leave")


def test_a_renamed_guest_keeps_its_uuid(private_lab: Lab):
    """Renaming leaves one guest with the old UUID and the new name, in a new process."""
    uuid, pid = private_lab.uuid("guest-2"), private_lab.qemu_pid("guest-2")
    private_lab.rename("guest-2", "renamed")
    assert set(private_lab.names()) == {"guest-0", "guest-1", "guest-3", "renamed"}
    assert private_lab.virsh("domname", uuid).strip() == "renamed"
    assert private_lab.qemu_pid("renamed") != pid
    private_lab.destroy("renamed")
    assert set(private_lab.names()) == {"guest-0", "guest-1", "guest-3"}


def test_labs_run_side_by_side(private_lab: Lab):
    """Guests and taps of the same names in two labs do not meet."""
    with Lab() as other:
        other.paused_guests(1)
        assert other.names() == ["guest-0"]
        assert other.qemu_pid("guest-0") != private_lab.qemu_pid("guest-0")
        assert other.taps("guest-0") == ["vnet0"]
        assert "vnet0" in [tap for name in private_lab.names() for tap in private_lab.taps(name)]
        trace = other.trace
    assert trace.leftovers() == []
    assert len(private_lab.names()) == 4


def test_nothing_is_left():
    """A lab that closes takes everything along, frozen daemon and stuck guest included."""
    with Lab() as lab:
        lab.paused_guests(3)
        lab.spawn("sleep", "infinity")
        os.kill(lab.qemu_pid("guest-1"), signal.SIGSTOP)
        lab.freeze()
        trace = lab.trace
        assert len(trace.leftovers()) > 5
    assert trace.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_owner_is_killed(number: signal.Signals):
    """A test process that is killed or interrupted leaves nothing either."""
    argv = [sys.executable, "-c", OWNER]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        argv,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout
        directory, netns, groups = json.loads(owner.stdout.readline())
        trace = Trace(Path(directory), netns, tuple(map(Path, groups)))
        assert len([line for line in trace.leftovers() if "qemu-system" in line]) == 2
        owner.send_signal(number)
    wait_until(lambda: not trace.leftovers(), "the lab to go")


def test_a_missing_program_is_one_sentence():
    """Where libvirt or QEMU is missing, the message names it and `make test`."""
    with pytest.raises(LabError, match=r"^the lab needs libvirtd, virsh, .*run `make test`[^\n]*$"):
        check_machine("/nonexistent")


@pytest.mark.parametrize("version", ["v1", "v2", "hybrid"])
def test_cgroups_are_those_that_were_chosen(version: str):
    """A guest's cgroup is in its partition, and per-CPU statistics exist on version 1 alone."""
    if version not in cgroup_versions():
        with pytest.raises(LabError, match=f"does not have cgroups of the kind {version}"):
            Lab(version).open()
        return
    with Lab(version) as lab:
        lab.make_partition("/prod/db")
        lab.paused_guests(1, partition="/prod/db")
        groups = Path(f"/proc/{lab.qemu_pid('guest-0')}/cgroup").read_text()
        assert f"{lab.directory.name}/prod.partition/db.partition/qemu-1-guest-0" in groups
        if version == "v1":
            assert "CPU0:" in lab.virsh("cpu-stats", "guest-0")
        else:
            assert "user_time" in lab.virsh("cpu-stats", "guest-0", "--total")
            with pytest.raises(LabError, match="not supported"):
                lab.virsh("cpu-stats", "guest-0")
        trace = lab.trace
    assert trace.leftovers() == []
