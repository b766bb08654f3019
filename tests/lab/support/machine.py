"""What this machine offers to the lab, and how to wait for things outside this process."""

from __future__ import annotations

import fcntl
import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path


KVM_GET_API_VERSION = 0xAE00
WAIT_SECONDS = 200.0
NEEDED = ("libvirtd", "virsh", "qemu-system-x86_64", "nsenter", "unshare", "mount", "ip")


class LabError(Exception):
    """The lab cannot do what was asked; the message says what is missing or what failed."""


def check_machine(path: str | None = None) -> None:
    """Raise LabError in one sentence where the lab cannot run; `path` is where programs are."""
    missing = [program for program in NEEDED if not shutil.which(program, path=path)]
    if missing:
        raise LabError(
            f"the lab needs {', '.join(missing)}: run `make test`, which installs what it needs"
        )
    if os.geteuid() != 0:
        raise LabError("the lab needs root for namespaces and taps: run `make test`")


def has_kvm() -> bool:
    """Tell whether this machine's KVM can be used."""
    try:
        with Path("/dev/kvm").open("rb") as device:
            return fcntl.ioctl(device, KVM_GET_API_VERSION) == 12
    except OSError:
        return False


def output(argv: Sequence[str], timeout: float = WAIT_SECONDS) -> str:
    """
    Run a command and return what it prints.

    LabError if it fails, `subprocess.TimeoutExpired` if it takes too long.
    """
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    if done.returncode:
        raise LabError(f"{shlex.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def wait_until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait for a state of something outside this process; LabError if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.05)


def end(pid: int, number: int) -> None:
    """Send a signal to a process, frozen or not, and wait for its end."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
            signal.pidfd_send_signal(handle, signal.SIGCONT)
        ended, _, _ = select.select([handle], [], [], WAIT_SECONDS)
        if not ended:
            raise LabError(f"process {pid} did not end in {WAIT_SECONDS:.0f} s")
    finally:
        os.close(handle)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs, zombies not counting."""
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def command(pid: int) -> str:
    """Return the beginning of a process' command line, for messages."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:100]
    return "gone meanwhile"
