"""Collectors of other packages, from their installation to their numbers, good and bad ones."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.agent import Agent, running
from support.simulator import simulated


TEMPLATE = Path(__file__).parents[1] / "template_collector"

HOSTILE = '''
"""Collectors that misbehave, each in its own way."""

import asyncio
import dataclasses
import time

from virtstatd.collector import Batch, Outcome


@dataclasses.dataclass(frozen=True)
class Raises:
    """Raise at once."""

    def open(self, given):
        return Bad(given.name, self.misbehave)

    async def misbehave(self, emit):
        raise ZeroDivisionError("boom")


class Blocks(Raises):
    """Block the thread."""

    async def misbehave(self, emit):
        time.sleep(3600)


class Hangs(Raises):
    """Heed nothing."""

    async def misbehave(self, emit):
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue


class Exits(Raises):
    """End the process."""

    async def misbehave(self, emit):
        raise SystemExit(3)


class Rubbish(Raises):
    """Emit what is no batch."""

    async def misbehave(self, emit):
        while True:
            emit(Batch("bulk", -1, ({},), gone=("everybody",)))
            emit(None)
            await asyncio.sleep(0.01)


class Leaks(Raises):
    """Leave tasks behind."""

    async def misbehave(self, emit):
        while True:
            asyncio.ensure_future(asyncio.sleep(3600))
            await asyncio.sleep(0)


class Bad:
    """Runs what its plug-in does."""

    def __init__(self, name, misbehave):
        self.name = name
        self._misbehave = misbehave

    async def run(self, emit, libvirt, stop):
        await self._misbehave(emit)

    async def once(self, emit):
        await self._misbehave(emit)

    def numbers(self):
        raise RuntimeError("no numbers either")
'''
KINDS = ("Raises", "Blocks", "Hangs", "Exits", "Rubbish", "Leaks")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the template and the hostile package; return the environment that has both."""
    package = shutil.copytree(TEMPLATE, tmp_path_factory.mktemp("template") / "package")
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    alone = ["--no-index", "--no-deps", "--no-build-isolation", "--root-user-action=ignore"]
    subprocess.run([*pip, *alone, "--target", target, package], check=True)
    (target / "hostile.py").write_text(HOSTILE)
    metadata = target / "hostile-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1\n")
    names = "".join(f"{kind.lower()} = hostile:{kind}\n" for kind in KINDS)
    (metadata / "entry_points.txt").write_text(f"[virtstatd.collectors]\n{names}")
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path}


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    """Make a thermal zone."""
    zone = tmp_path / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("x86_pkg_temp\n")
    (zone / "temp").write_text("41500\n")
    return zone.parent


def ran(environment: dict[str, str], *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the agent."""
    return subprocess.run(
        [sys.executable, "-m", "virtstatd", *map(str, command)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_its_own_tests_pass(installed: dict[str, str]):
    """The package's own tests, which hold it to the contract, need only the agent installed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TEMPLATE)]
    environment = os.environ | installed | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, env=environment, cwd=TEMPLATE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_check_names_it_and_its_faults(tmp_path: Path, installed: dict[str, str]):
    """`virtstatd check` knows its options, and says what is wrong with a table as for a sink."""
    config = tmp_path / "virtstatd.toml"
    config.write_text('[[collector]]\ntype = "thermal"\ninterval_seconds = 30\n')
    good = ran(installed, "check", "--config", config)
    assert good.returncode == 0, good.stderr
    assert "thermal (thermal)" in good.stdout

    config.write_text(
        '[[collector]]\ntype = "termal"\n[[collector]]\ntype = "thermal"\nname = "bulk"\n'
        '[[collector]]\ntype = "thermal"\ninterval = 30\n[[collector]]\ntype = "thermal"\n'
    )
    bad = ran(installed, "check", "--config", config)
    assert bad.returncode == 78
    for fault in (
        ":2: collector[0].type: unknown collector type 'termal', did you mean thermal?",
        ":5: collector[1].name: 'bulk' is the name of a collector of the agent's own",
        ":8: collector[2].interval: unknown option, did you mean interval_seconds?",
        ":9: collector[3].name: 'thermal' is the name of collector[2] too; give each its own",
    ):
        assert fault in bad.stderr, bad.stderr


def test_once_has_its_numbers(tmp_path: Path, zones: Path, installed: dict[str, str]):
    """`virtstatd once` asks it too, and names the one that got no answer, with exit status 1."""
    config = tmp_path / "virtstatd.toml"
    with simulated(tmp_path, "--domains", "2") as simulator:
        text = (
            f"[hypervisor]\nuri = {json.dumps(simulator.uri)}\n"
            f"[[collector]]\ntype = 'thermal'\ndirectory = '{zones}'\n"
        )
        config.write_text(text)
        good = ran(installed, "once", "--config", config)
        config.write_text(f"{text}[[collector]]\ntype = 'raises'\n")
        bad = ran(installed, "once", "--config", config)
    assert good.returncode == 0, good.stderr
    for done in (good, bad):
        assert 'host_thermal_zone_temperature_celsius{zone="x86_pkg_temp"} 41.5' in done.stdout
        assert "libvirt_domains 2" in done.stdout
    assert bad.returncode == 1
    assert "raises: ZeroDivisionError: boom" in bad.stderr


def test_bad_ones_cost_the_others_nothing(tmp_path: Path, zones: Path, installed: dict[str, Any]):
    """Ones that raise, block, hang, exit, leak or emit rubbish are named; the rest goes on."""
    more = f"[[collector]]\ntype = 'thermal'\ndirectory = '{zones}'\ninterval_seconds = 1\n"
    for kind in KINDS:
        more += f"[[collector]]\ntype = '{kind.lower()}'\nsilent_seconds = 15\n"
    with (
        simulated(tmp_path, "--domains", "5") as simulator,
        running(tmp_path, simulator.uri, more=more, **installed) as agent,
    ):
        named: set[object] = set()

        def all_named() -> bool:
            for event in ("collector.failed", "collector.rejected"):
                named.update(each["collector"] for each in agent.events(event))
            return named == {kind.lower() for kind in KINDS}

        agent.wait_for(all_named, 100)
        before = ticks(agent)
        agent.wait_for(lambda: ticks(agent) > before + 5, 100)
        assert agent.value("libvirt_domains") == 5
        assert agent.value("host_thermal_zone_temperature_celsius", zone="x86_pkg_temp") == 41.5
        assert agent.value("virtstatd_collector_success", collector="bulk") == 1
        assert agent.value("virtstatd_collector_success", collector="thermal") == 1
        for kind in KINDS:
            assert agent.value("virtstatd_collector_success", collector=kind.lower()) == 0
        assert not agent.events("not_json")
        assert agent.stop() == 0


def ticks(agent: Agent) -> float:
    """Return how many polls of the monitor tier have begun."""
    return agent.value("virtstatd_ticks_total", tier="monitor") or 0.0
