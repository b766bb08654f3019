"""A collector of the agent's own needs one new file and one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import virtstatd
from support.simulator import simulated


MADE_UP = '''
"""Count the processors of the host."""

import asyncio
import os
import time
from typing import Annotated, Final

from msgspec import Meta, Struct

from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collector import (
    Batch, Emit, Field, Health, Kind, Outcome, Reading, Series, Shape, Up
)

SHAPE = Shape("made_up", (Series(Field("made", "up", Kind.GAUGE, "", "Processors.")),))


class MadeUpOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Processors of the host."""

    number: Annotated[int, Meta(description="What is reported.", ge=1)] = 7


class MadeUp:
    name = "made_up"

    def __init__(self, number: int) -> None:
        self.number = number

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        await stop.wait()

    async def once(self, emit: Emit) -> Outcome:
        reading = Reading(None, SHAPE, (self.number,))
        emit(Batch("made_up", time.time_ns(), (reading,), frozenset({"made_up"})))
        return Outcome()

    def numbers(self):
        return ()


KIND: Final = CollectorKind(
    "made_up", lambda options, parts: MadeUp(options.number), "made_up", MadeUpOptions
)
'''


def test_a_file_and_a_line_make_a_collector(tmp_path: Path):
    """With the file and its line, the collector has its table, is checked, and is asked."""
    package = Path(virtstatd.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    agent = shutil.copytree(package, tmp_path / "agent" / "virtstatd", ignore=ignored)
    (agent / "collect" / "made_up.py").write_text(MADE_UP)
    kinds = agent / "config" / "kinds.py"
    line = '    "cpu_stats",\n'
    text = kinds.read_text()
    assert text.count(line) == 1
    kinds.write_text(text.replace(line, f'{line}    "made_up",\n'))
    config = tmp_path / "virtstatd.toml"

    def ran(*command: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(agent.parent), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-m", "virtstatd", *command, "--config", str(config)],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    with simulated(tmp_path, "--domains", "1") as simulator:
        config.write_text(f"[hypervisor]\nuri = '{simulator.uri}'\n[made_up]\nnumber = 12\n")
        done = ran("once")
    assert done.returncode == 0, done.stderr
    assert "\nmade_up 12\n" in done.stdout
    config.write_text("[made_up]\nnumber = 0\n")
    assert "made_up.number: must be at least 1, is 0" in ran("check").stderr
