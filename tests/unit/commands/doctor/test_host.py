"""What `doctor` finds on a host, of made-up hosts."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.documents import HOSTILE
from virtstatd.commands.doctor.check import Check, CheckState, check_lines, named
from virtstatd.commands.doctor.host import (
    kernel_checks,
    library_check,
    socket_check,
    unit_check,
    user_check,
)


@pytest.mark.parametrize(
    ("unit", "state", "said"),
    [
        (None, "note", "systemd does not run here"),
        ({"LoadState": "not-found"}, "missing", "make install"),
        (
            {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"},
            "ok",
            "virtstatd.service is active",
        ),
        (
            {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "disabled"},
            "note",
            "systemctl enable virtstatd.service",
        ),
        (
            {"LoadState": "loaded", "ActiveState": "inactive"},
            "missing",
            "systemctl enable --now virtstatd.service",
        ),
        (
            {"LoadState": "loaded", "ActiveState": "failed", "Result": "exit-code"},
            "missing",
            "journalctl -u virtstatd.service",
        ),
    ],
)
def test_the_unit_as_systemd_sees_it(unit: Mapping[str, str] | None, state: CheckState, said: str):
    """Whether the unit runs and starts with the host, and the command that changes it."""
    check = unit_check(lambda: unit)

    assert check.state == state
    assert said in check.text + check.fix


def test_the_socket_and_who_may_use_it(tmp_path: Path):
    """A socket that is closed to the user is missing, with the drop-in that opens it."""
    path = tmp_path / "libvirt-sock-ro"
    uri = f"qemu+unix:///system?socket={path}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        everyone = socket_check(uri, 1234, ())
        path.chmod(0o770)
        stranger = socket_check(uri, 1234, ())
        member = socket_check(uri, 1234, (path.stat().st_gid,))
    path.unlink()
    gone = socket_check(uri, 1234, ())

    assert everyone
    assert everyone.state == "ok"
    assert stranger
    assert (stranger.state, "libvirt-group.conf" in stranger.fix) == ("missing", True)
    assert member
    assert member.state == "note"
    assert gone
    assert (gone.state, "systemctl start libvirtd" in gone.fix) == ("missing", True)
    assert socket_check("test:///default", 0, ()) is None


def test_who_looks_is_said():
    """For root the result says that the service's user sees less, for others their groups."""
    check = user_check()

    assert ("root" in check.text) is (os.geteuid() == 0)


def test_the_library_in_c_is_said_to_be_there_or_not():
    """Without the library nothing is missing, but the result says how to get it."""
    assert library_check(in_c=True).state == "ok"
    without = library_check(in_c=False)
    assert (without.state, "python3-dev" in without.fix) == ("note", True)


def kernel(tmp_path: Path, options: str, *files: str) -> dict[str, Check]:
    """Return the results on a host with these mount options and files, by what was looked at."""
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    for each in ("self", *(str(Path(file).parent) for file in files)):
        (tmp_path / "proc" / each).mkdir(parents=True, exist_ok=True)
    root.mkdir(exist_ok=True)
    (proc / "self/mountinfo").write_text(f"22 1 0:5 / /proc rw - proc proc {options}\n")
    for file in files:
        (proc / file).write_text("")
    return {each.what: each for each in kernel_checks(proc, root)}


def test_a_kernel_that_shows_all(tmp_path: Path):
    """Visible processes, cgroups, waiting times and pressure are ok."""
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup/cgroup.controllers").write_text("cpu")
    found = kernel(tmp_path, "rw", "self/schedstat", "pressure/cpu")

    assert {each.state for each in found.values()} == {"ok"}
    assert found["cgroups"].text == "version 2"


def test_a_kernel_that_hides(tmp_path: Path):
    """What is hidden or not counted is missing, each with the change that shows it."""
    found = kernel(tmp_path, "rw,hidepid=2")

    assert {each.state for each in found.values()} == {"missing"}
    assert "gid=" in found["/proc"].fix
    assert "CONFIG_SCHED_INFO" in found["schedstats"].fix
    assert "psi=1" in found["pressure"].fix


def test_cgroups_of_both_versions(tmp_path: Path):
    """A hybrid host is reported as one."""
    (tmp_path / "cgroup/cpu").mkdir(parents=True)
    assert kernel(tmp_path, "rw")["cgroups"].text == "version 1"
    (tmp_path / "cgroup/unified").mkdir()
    (tmp_path / "cgroup/unified/cgroup.controllers").write_text("")
    assert kernel(tmp_path, "rw")["cgroups"].text == "version 1 and 2"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_in_their_line(name: str):
    """A result is a line, and its fix another, whatever a guest is called."""
    for line in check_lines(Check("balloon", "missing", named([name]), name)):
        assert line.isprintable()


def test_many_names_are_counted():
    """The first names are listed, and how many there are beside them."""
    assert named(["b", "a"]) == "a, b"
    assert named(map(str, range(10, 20))) == "10, 11, 12, 13, 14 and 5 more"
