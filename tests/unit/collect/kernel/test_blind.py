"""What bars the agent from seeing is found out before it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtstatd.collect.kernel.blind import INITIAL, Bars, mounts


MOUNT = "22 27 0:21 / /proc rw,relatime shared:5 - proc proc {}\n"


class Host:
    """The facts of a host, as files of /proc."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        (proc / "self/ns").mkdir(parents=True)
        (proc / "pressure").mkdir()
        (proc / "pressure/cpu").touch()
        (proc / "cgroups").write_text("#subsys_name hierarchy num_cgroups enabled\n")
        self.bars = Bars(proc)
        for kind, number in INITIAL.items():
            self.namespace(kind, number)
        self.mounted("rw")
        self.controllers(cpu=1, memory=1, blkio=1)

    def namespace(self, kind: str, number: int) -> None:
        """Put the agent into a namespace."""
        link = self.proc / "self/ns" / kind
        link.unlink(missing_ok=True)
        link.symlink_to(f"{kind}:[{number}]")

    def mounted(self, options: str) -> None:
        """Mount /proc so, over one that was there before."""
        (self.proc / "self/mountinfo").write_text(MOUNT.format("rw") + MOUNT.format(options))

    def controllers(self, **enabled: int) -> None:
        """Let the kernel have these controllers."""
        rows = "".join(f"{name} 1 7 {on}\n" for name, on in enabled.items())
        (self.proc / "cgroups").write_text(f"#subsys_name hierarchy num_cgroups enabled\n{rows}")

    def said(self, what: str) -> str:
        """Return what is said, reason and advice."""
        return " -> ".join(self.bars.explained(what, "unseen"))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Make a host where nothing bars the view."""
    return Host(tmp_path)


def test_nothing_is_blamed_that_is_not_so(host: Host):
    """On a host without namespaces and options none is named, nor advised about."""
    for what in ("processes", "hidden cgroups", "memory", "cpu pressure", "host load"):
        said = host.said(what)
        assert said.startswith("unseen -> "), said
        for innocent in ("namespace", "hidepid", "subset", "psi", "cgroup_disable"):
            assert innocent not in said


@pytest.mark.parametrize("options", ["rw,hidepid=2", "rw,gid=7,hidepid=invisible"])
def test_hidden_processes_are_told_from_those_of_another_namespace(host: Host, options: str):
    """A private PID namespace is named as such, and options of /proc where they are set."""
    host.namespace("pid", 4026532201)
    assert "PID namespace of its own -> run it in the host's" in host.said("processes")
    assert "PID" not in host.said("hidden cgroups")
    host.mounted(options)
    assert "`hidepid=` -> mount /proc without it" in host.said("processes")
    host.mounted("rw,hidepid=0")
    assert "hidepid" not in host.said("processes")


def test_a_private_cgroup_namespace_is_named(host: Host):
    """It is what keeps the guests' cgroups out of the agent's mount."""
    assert "mount the whole of the host's /sys/fs/cgroup" in host.said("hidden cgroups")
    host.namespace("cgroup", 4026532202)
    assert "cgroup namespace of its own -> run it in the host's" in host.said("hidden cgroups")
    assert "namespace" not in host.said("cgroups"), "of guests in no cgroup it is not the fault"


def test_who_counts_nothing_is_looked_up(host: Host):
    """The kernel's command line, libvirt's configuration, or the version of cgroups."""
    assert "cgroup_controllers" in host.said("memory")
    host.controllers(cpu=1, memory=0)
    assert "`memory` switched on -> leave it out of `cgroup_disable=`" in host.said("memory")
    assert "`blkio` switched on" in host.said("io")
    assert "cgroup_controllers" in host.said("cpu time")
    assert "version 2" in host.said("cpu pressure")
    (host.proc / "pressure/cpu").unlink()
    assert "counts no pressure -> boot it with `psi=1`" in host.said("cpu pressure")
    assert "psi=1" in host.said("host pressure")
    host.mounted("rw,subset=pid")
    assert "ProcSubset=" in host.said("host pressure")
    assert "ProcSubset=" in host.said("host memory")


def test_mounts_are_read_as_the_kernel_writes_them(tmp_path: Path):
    """Blanks are written as numbers, optional fields come in any number, the last mount counts."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(
        "1 2 0:3 /a\\040b /sys/fs/c\\040g rw shared:1 master:2 - cgroup2 cgroup2 rw,nsdelegate\n"
        "1 2 0:3 / /x rw - tmpfs tmpfs rw\n"
        "1 2 0:3 /old /y rw - cgroup cgroup rw,cpu\n"
        "1 2 0:3 /new /y rw - cgroup cgroup rw,cpu\n"
    )
    assert mounts(tmp_path, "cgroup", "cgroup2") == {
        Path("/sys/fs/c g"): ("/a b", "rw,nsdelegate"),
        Path("/y"): ("/new", "rw,cpu"),
    }
    assert mounts(tmp_path / "none", "proc") == {}
