"""Mount, network and cgroup namespaces of a lab's own, held by a `lab.support.keeper` process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.support import keeper
from lab.support.machine import LabError, command


@dataclass(frozen=True, slots=True)
class Trace:
    """What a lab would leave behind if its cleaning up failed."""

    directory: Path
    netns: int
    groups: tuple[Path, ...]

    def leftovers(self) -> list[str]:
        """Return what is still there; after `Lab.close` that is nothing."""
        # The number of a namespace that is gone is given to the next one, which may be another
        # run's; what is mounted from the directory is of this lab alone.
        left = [
            f"process {pid}: {command(pid)}"
            for pid in keeper.members(self.netns)
            if self.directory.name in _mounts(pid)
        ]
        left += [str(path) for path in (self.directory, *self.groups) if path.exists()]
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return left + [line for line in mounts if str(self.directory) in line]


def _mounts(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:  # gone meanwhile
        return ""


class Namespaces:
    """
    A private view of the machine, made when the object is and gone with `close`.

    Inside, `directory`'s parts are where libvirt's own directories are elsewhere (see
    `keeper.PRIVATE`), the network is empty but for a loopback, and the cgroups begin at
    `/NAME` of each of the machine's hierarchies, NAME being the directory's. With a `root` the
    programs and files are those of the system in that folder, which stays as it is.
    """

    def __init__(self, cgroup: str, root: Path | None = None) -> None:
        # Not in $TMPDIR: the path of a unix socket has at most 107 characters.
        self.directory = Path(tempfile.mkdtemp(prefix=keeper.PREFIX, dir="/tmp"))
        self.directory.chmod(0o755)
        self._asking = threading.Lock()
        with tempfile.TemporaryFile("w+") as errors:
            self._keeper = subprocess.Popen(
                [sys.executable, keeper.__file__, str(self.directory), cgroup, str(root or "")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
            try:
                answer = self._answer()
                if not answer:
                    self._keeper.wait()
                    errors.seek(0)
                    fault = errors.read().strip() or "the lab's keeper ended at once"
            except BaseException:
                self.close()
                raise
        if not answer:
            self.close()
            raise LabError(fault)
        opened = json.loads(answer)
        self._enter: list[str] = opened["enter"]
        groups = tuple(Path(group) for group in opened["groups"])
        self.trace = Trace(self.directory, opened["netns"], groups)

    def close(self) -> None:
        """Kill everything inside and remove namespaces, cgroups and directory."""
        if self._keeper.stdin and self._keeper.stdout:
            self._keeper.stdin.close()
            self._keeper.wait()
            self._keeper.stdout.close()

    def inside(self, argv: Sequence[str]) -> list[str]:
        """Return a command line that runs this one inside."""
        return [*self._enter, *argv]

    def spawn(self, argv: Sequence[str]) -> int:
        """Start a command inside that ends at the latest with `close`; return its process id."""
        with self._asking:
            if self._keeper.stdin is None or self._keeper.stdin.closed:
                raise LabError("the lab is closed")
            self._keeper.stdin.write(json.dumps(argv) + "\n")
            self._keeper.stdin.flush()
            return int(self._answer())

    def _answer(self) -> str:
        return self._keeper.stdout.readline() if self._keeper.stdout else ""
