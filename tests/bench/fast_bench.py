"""
What the library in C saves: readings of guests' files in Python, in C, and by a loop in plain C.

Run with `PYTHONPATH=agent:tests python -m bench.fast_bench [GUESTS] [FILE.json]`. The guests are
processes with the threads of a QEMU, so their files are of the kernel. Each second the three read
one after another, each in a process of its own, and print their threads' CPU time; the figures are
medians, and the ratios medians of the ratios of one second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.local_bench import Running, domain, surveyed


VCPUS = 4
SECONDS = 20
SOURCE = Path(__file__).with_name("threads_and_floor.c")


def reader(directory: Path) -> None:
    """Look once for each line of input, and print the microseconds that it took."""
    names = sorted(each.stem for each in directory.iterdir() if each.suffix == ".pid")
    known: Running = [domain(str(uuid.UUID(int=int(name))), name, int(name)) for name in names]
    survey = surveyed(directory, lambda: known)
    for _ in sys.stdin:
        began = time.thread_time_ns()
        second = survey.look()
        took = (time.thread_time_ns() - began) / 1e3
        print(took, len(second.readings), 0, flush=True)
    survey.close()


@contextmanager
def process(*command: str, fast: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run a process that answers lines, as long as the block lasts."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"VIRTSTATD_FAST": fast},
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def answer(asked: subprocess.Popen[str]) -> tuple[float, int]:
    """Have a process read once; return its microseconds and how much it read."""
    assert asked.stdin
    assert asked.stdout
    asked.stdin.write("\n")
    asked.stdin.flush()
    took, count, _ = asked.stdout.readline().split()
    return float(took), int(count)


def measured(guests: int, *, busy: bool) -> dict[str, float | str]:
    """Measure so many guests."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="virtstatd-bench-")))
        program = str(folder / "program")
        subprocess.run(["cc", "-O2", "-pthread", str(SOURCE), "-o", program], check=True)
        pids = []
        for at in range(1, guests + 1):
            name, uid = f"{at:04}", str(uuid.UUID(int=at))
            key = f'"file":"/var/lib/libvirt/qemu/domain-{at}-{name}/master-key.aes"'
            arguments = ("guest", str(VCPUS), str(int(busy)), "-name", f"guest={name}")
            guest = stack.enter_context(
                process(program, *arguments, "-object", f"{{{key}}}", "-uuid", uid)
            )
            assert guest.stdout
            guest.stdout.readline()
            (folder / f"{name}.pid").write_text(f"{guest.pid}\n")
            pids.append(str(guest.pid))
        own = (sys.executable, "-m", "bench.fast_bench", "--reader", str(folder))
        readers = [
            stack.enter_context(process(program, "floor", *pids)),
            stack.enter_context(process(*own, fast="python")),
            stack.enter_context(process(*own)),
        ]
        rows = []
        for _ in range(SECONDS + 5):
            rows.append([answer(each) for each in readers])
            time.sleep(1)
    assert rows[-1][1][1] == rows[-1][2][1] >= guests, "every guest is read"
    floor, python, fast = ([row[at][0] for row in rows[5:]] for at in range(3))
    pairs = list(zip(floor, python, fast, strict=True))
    return {
        "name": "busy" if busy else "quiet",
        "guests": guests,
        "files": rows[-1][0][1],
        "floor_ms": round(median(floor) / 1e3, 2),
        "python_ms": round(median(python) / 1e3, 2),
        "c_ms": round(median(fast) / 1e3, 2),
        "python_to_floor": round(median(p / f for f, p, _ in pairs), 2),
        "c_to_floor": round(median(c / f for f, _, c in pairs), 2),
        "c_to_python": round(median(c / p for _, p, c in pairs), 2),
    }


def main(arguments: list[str]) -> None:
    """Print a line for quiet guests and one for busy ones."""
    if arguments[:1] == ["--reader"]:
        reader(Path(arguments[1]))
        return
    counts = [int(each) for each in arguments if each.isdigit()]
    results = [measured(counts[0] if counts else 300, busy=busy) for busy in (False, True)]
    for result in results:
        print(", ".join(f"{name} {value}" for name, value in result.items()))
    if arguments and not arguments[-1].isdigit():
        Path(arguments[-1]).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
