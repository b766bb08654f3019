"""A tree of files as the kernel has in /proc, and libvirt's directory of pid files beside it."""

from __future__ import annotations

import shutil
from pathlib import Path


HEAD = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
"""


class Tree:
    """Guests' processes in a directory; nothing but files."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.pids = folder / "qemu"
        self.proc.mkdir()
        self.pids.mkdir()

    def start(
        self, pid: int, uuid: str, name: str, number: int, *, vcpus: int = 2, links: str = ""
    ) -> Path:
        """Start a guest: its process and its pid file."""
        folder = self.proc / str(pid)
        (folder / "net").mkdir(parents=True)
        self.command(pid, uuid, number, name)
        self.table(pid, links)
        (folder / "cgroup").write_text("0::/\n")
        self.thread(pid, pid, "qemu-system-x86", 5_000_000, 0)
        for vcpu in range(vcpus):
            self.thread(pid, pid + 10 + vcpu, f"CPU {vcpu}/KVM")
        self.stat(pid, threads=1 + vcpus)
        (self.pids / f"{name}.pid").write_text(f"{pid}\n")
        return folder

    def command(self, pid: int, uuid: str, number: int, name: str) -> None:
        """Write a command line as libvirt makes it."""
        (self.proc / str(pid) / "cmdline").write_bytes(
            f"/usr/bin/qemu\0-name\0guest={name}\0-object\0"
            f'{{"file":"/var/lib/libvirt/qemu/domain-{number}-{name[:20]}/master-key.aes"}}\0'
            f"-uuid\0{uuid}\0-display\0none\0".encode()
        )

    def thread(self, pid: int, tid: int, name: str, run: int = 0, delay: int = 0) -> None:
        """Write a thread's name and times."""
        folder = self.proc / str(pid) / "task" / str(tid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comm").write_text(f"{name}\n")
        self.times(pid, tid, run, delay)

    def times(self, pid: int, tid: int, run: int, delay: int) -> None:
        """Write a thread's times, in nanoseconds."""
        (self.proc / str(pid) / "task" / str(tid) / "schedstat").write_text(f"{run} {delay} 7\n")

    def stat(
        self,
        pid: int,
        *,
        threads: int,
        state: str = "S",
        pages: int = 100,
        minor: int = 3,
        started: int = 4711,
    ) -> None:
        """Write a process' `stat`, whose name may hold anything."""
        fields = [state, *["0"] * 6, str(minor), "0", "1", "0", "12", "34", *["0"] * 4]
        fields += [str(threads), "0", str(started), "0", str(pages), "0"]
        (self.proc / str(pid) / "stat").write_text(f"{pid} (qemu) S 1) {' '.join(fields)}\n")

    def table(self, pid: int, rows: str) -> None:
        """Write the table of interfaces that a process sees."""
        (self.proc / str(pid) / "net" / "dev").write_text(HEAD + rows)

    def end(self, pid: int, name: str = "") -> None:
        """End a process, and remove its pid file where it is named."""
        self._remove(self.proc / str(pid))
        if name:
            (self.pids / f"{name}.pid").unlink()

    def unplug(self, pid: int, tid: int) -> None:
        """End one thread."""
        self._remove(self.proc / str(pid) / "task" / str(tid))

    def _remove(self, folder: Path) -> None:
        # what is open of a process that has ended gives nothing, unlike files that are deleted
        for file in [*folder.rglob("stat"), *folder.rglob("schedstat")]:
            file.write_bytes(b"")
        shutil.rmtree(folder)
