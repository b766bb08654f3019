"""The instructions of parts of a program, counted by valgrind's callgrind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def instructions(module: str, parts: Iterable[str], folder: Path) -> dict[str, int]:
    """
    Return how many instructions each part of a module took.

    The module answers "ready", and a line for each part that it reads the name of. Every part is
    done once before, since the first time may find more to do. The count has the line's reading and
    writing in it. `PYTHONHASHSEED` is fixed: dictionaries would differ otherwise.
    """
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
    command += [f"--callgrind-out-file={folder}/part", sys.executable, "-m", module]
    with (
        (folder / "complaints").open("w") as complaints,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        try:
            assert process.stdout.readline() == "ready\n", (folder / "complaints").read_text()
            counted: dict[str, int] = {}
            for number, part in enumerate(parts, 1):
                for switch in ("off", "on"):
                    _control(process.pid, "-i", switch)
                    process.stdin.write(f"{part}\n")
                    process.stdin.flush()
                    assert process.stdout.readline() == "done\n"
                _control(process.pid, "-i", "off")
                _control(process.pid, "--dump")
                text = (folder / f"part.{number}").read_text()
                (total,) = re.findall(r"^totals: (\d+)$", text, re.MULTILINE)
                counted[part] = int(total)
            process.stdin.close()
            process.wait(100)
        finally:
            process.kill()
    return counted


def _control(pid: int, *words: str) -> None:
    subprocess.run(
        ["callgrind_control", *words, str(pid)], check=True, capture_output=True, timeout=100
    )
