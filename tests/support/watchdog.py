"""
Ends a run of pytest that cannot be interrupted: the process beside it that `limits` starts.

Each line on standard input is a number of seconds from now and what they are for; "0" stops the
watch. Where they pass, every stack of the run is written, then the run is killed, and what it had
started has a grace to clean up in before it is killed too.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


MARK = "PYTEST_WATCHED_RUN"
"""The variable by which processes are known that the run has started, whatever they are below."""
DUMP = signal.SIGUSR2
"""What makes the run write all of its stacks."""
DUMP_SECONDS = 2.0


def descendants(root: int, mark: str) -> Iterator[int]:
    """Yield what a process has started: all below it, and all that carry its mark."""
    parents = {}
    marked = []
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()):
        with suppress(OSError):  # gone meanwhile
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            parents[pid] = int(stat.rpartition(")")[2].split()[1])
            if f"{MARK}={mark}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                marked.append(pid)
    found = {root, *marked}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    yield from found - {root, os.getpid()}


def end(run: int, mark: str, grace: float) -> None:
    """Write the run's stacks, kill it, and then what of it does not end by itself."""
    with suppress(ProcessLookupError):
        os.kill(run, DUMP)
        os.kill(run, signal.SIGCONT)
    time.sleep(DUMP_SECONDS)
    handles = []
    for pid in descendants(run, mark):
        with suppress(ProcessLookupError):
            handles.append(os.pidfd_open(pid))
    with suppress(ProcessLookupError):
        os.kill(run, signal.SIGKILL)
    deadline = time.monotonic() + grace
    while handles and time.monotonic() < deadline:
        gone = select.select(handles, [], [], max(0.0, deadline - time.monotonic()))[0]
        handles = [each for each in handles if each not in gone]
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGCONT)
            signal.pidfd_send_signal(handle, signal.SIGKILL)


def main() -> None:
    """Watch the run whose process id, mark and grace are the arguments."""
    run, mark, grace = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    ended = os.pidfd_open(run)
    deadline, what, rest, sources = 0.0, "", b"", [ended, 0]
    while True:
        left = max(0.0, deadline - time.monotonic()) if deadline else None
        ready = select.select(sources, [], [], left)[0]
        if ended in ready:
            return
        if not ready:
            break
        if not (some := os.read(0, 65536)):
            sources.remove(0)  # the run closes it when it ends; the last deadline stands
        *lines, rest = (rest + some).split(b"\n")
        for line in lines:
            seconds, _, what = line.decode(errors="replace").partition(" ")
            deadline = time.monotonic() + float(seconds) if float(seconds) else 0.0
    sys.stderr.write(f"\n{what} cannot be interrupted. What everything is doing:\n")
    sys.stderr.flush()
    end(run, mark, grace)
    sys.stderr.write(f"\n= the run was killed: {what} cannot be interrupted =\n")


if __name__ == "__main__":
    main()
