"""A libvirtd in namespaces of its own: started, stopped, frozen and asked."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.support.machine import (
    WAIT_SECONDS,
    LabError,
    check_machine,
    end,
    is_alive,
    output,
    wait_until,
)
from lab.support.namespaces import Namespaces, Trace


LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_ro_perms = "0777"
unix_sock_rw_perms = "0700"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
host_uuid = "{host}"
"""

# Without mount namespaces and owner changes a guest starts in half the time.
QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
stdio_handler = "file"
"""


class Libvirtd:
    """
    A private libvirtd, running from `open` to `close`.

    `cgroup` chooses what it sees of the host's cgroups: None all of them as they are, "v1" without
    the unified hierarchy, "v2" that one alone, with the controllers that the host has there, and
    "hybrid" both. `root` is a system to take it and all its programs from, instead of this
    machine's. `pid` is 0 while it is down.
    """

    def __init__(self, cgroup: str | None = None, root: Path | None = None) -> None:
        self._cgroup = cgroup or ""
        self._root = root
        self._namespaces: Namespaces | None = None
        self.pid = 0

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Make the namespaces and start libvirtd; LabError says what the machine lacks."""
        check_machine()
        self._namespaces = Namespaces(self._cgroup, self._root)
        try:
            (self.directory / "etc/libvirtd.conf").write_text(
                LIBVIRTD_CONF.format(host=uuid.uuid4())
            )
            (self.directory / "etc/qemu.conf").write_text(QEMU_CONF)
            self.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take everything down: guests, libvirtd, namespaces, cgroups, files."""
        if self._namespaces:
            self._namespaces.close()
        self._namespaces, self.pid = None, 0

    @property
    def namespaces(self) -> Namespaces:
        """The lab's namespaces, while it is open."""
        if self._namespaces is None:
            raise LabError("the lab is closed")
        return self._namespaces

    @property
    def directory(self) -> Path:
        """Everything that the lab's libvirtd reads and writes, by `keeper.PRIVATE`'s names."""
        return self.namespaces.directory

    @property
    def trace(self) -> Trace:
        """What must be gone when the lab is."""
        return self.namespaces.trace

    @property
    def socket(self) -> Path:
        """The read-write socket."""
        return self.directory / "run/libvirt-sock"

    @property
    def socket_readonly(self) -> Path:
        """The read-only socket, which anyone may open."""
        return self.directory / "run/libvirt-sock-ro"

    @property
    def uri(self) -> str:
        """The URI of a read-write connection from outside the lab's namespaces."""
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def uri_readonly(self) -> str:
        """The URI of a read-only connection (open it as such)."""
        return f"qemu+unix:///system?socket={self.socket_readonly}"

    @property
    def log(self) -> Path:
        """The file that libvirtd logs its warnings to."""
        return self.directory / "log/libvirtd.log"

    def start(self) -> None:
        """Start libvirtd and wait until it answers."""
        if self.pid:
            return
        self.pid = self.spawn("libvirtd", "--config", "/etc/libvirt/libvirtd.conf")
        wait_until(self._listening, "libvirtd to listen")
        self.virsh("uri")

    def stop(self) -> None:
        """End libvirtd as its service would; the guests live on."""
        self.kill(signal.SIGTERM)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End libvirtd by a signal and wait until it is gone; the guests live on."""
        if not self.pid:
            return
        pid, self.pid = self.pid, 0
        end(pid, number)

    def restart(self) -> None:
        """Stop libvirtd and start it again; the guests live on."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop libvirtd in its tracks, so that it neither answers nor closes connections."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen libvirtd continue."""
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze libvirtd for the length of a block."""
        self.freeze()
        try:
            yield
        finally:
            if self.pid:
                self.thaw()

    def virsh(self, *args: str, timeout: float = WAIT_SECONDS) -> str:
        """
        Run the real virsh on the lab's libvirtd and return what it prints.

        LabError if it fails, `subprocess.TimeoutExpired` if it takes too long.
        """
        return output(["virsh", "--connect", self.uri, *args], timeout)

    def virt_admin(self, *args: str, timeout: float = WAIT_SECONDS) -> str:
        """Run the real virt-admin on the lab's libvirtd and return what it prints."""
        uri = f"libvirtd:///system?socket={self.directory / 'run/libvirt-admin-sock'}"
        return output(["virt-admin", "--connect", uri, *args], timeout)

    def run(self, *args: str, timeout: float = WAIT_SECONDS) -> str:
        """Run a command inside the lab's namespaces and return what it prints."""
        return output(self.inside(*args), timeout)

    def inside(self, *args: str) -> list[str]:
        """Return a command line that runs this one inside the lab's namespaces."""
        return self.namespaces.inside(args)

    def spawn(self, *args: str) -> int:
        """Start a command inside the namespaces that ends with the lab; return its process id."""
        return self.namespaces.spawn(args)

    def _listening(self) -> bool:
        if not is_alive(self.pid):
            said = [(self.directory / "output"), self.log]
            lines = [line for path in said if path.exists() for line in path.open()]
            raise LabError(f"libvirtd ended: {''.join(lines[-5:]).strip()}")
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
            except OSError:
                return False
        return True
