"""A sink of a third party, in a package of its own, from its installation to its numbers."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.agent import Agent
from support.http_stub import Stub, answering
from support.simulator import simulated


TEMPLATE = Path(__file__).parents[1] / "template_sink"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package, for its build to write into."""
    return Path(shutil.copytree(TEMPLATE, tmp_path_factory.mktemp("template") / "package"))


@pytest.fixture(scope="module")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the package beside the agent, and return the environment that has both."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    alone = ["--no-index", "--no-deps", "--no-build-isolation", "--root-user-action=ignore"]
    subprocess.run([*pip, *alone, "--target", target, package], check=True)
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path}


def test_its_own_tests_pass(package: Path, installed: dict[str, str]):
    """The package's own tests, which hold it to the contract, need only the agent installed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package)]
    done = subprocess.run(
        command,
        env=os.environ | installed,
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_it_is_listed(installed: dict[str, str]):
    """`virtstatd sinks` shows it among the others, and with its name its options."""
    for more, text in ((), "webhook ("), (("webhook",), "URL that receives."):
        command = [sys.executable, "-m", "virtstatd", "sinks", *more]
        done = subprocess.run(
            command, env=os.environ | installed, capture_output=True, text=True, check=True
        )
        assert text in done.stdout


async def test_an_agent_uses_it(tmp_path: Path, installed: dict[str, str]):
    """Named in the configuration, it is sent the numbers of every guest."""
    config = tmp_path / "virtstatd.toml"
    async with answering() as stub:
        with simulated(tmp_path, "--domains", "5") as simulator:
            config.write_text(
                f"[hypervisor]\nuri = {json.dumps(simulator.uri)}\n[poll.monitor]\n"
                f"interval_seconds = 1\n[[sink]]\ntype = 'webhook'\nurl = '{stub.url}'\n"
            )
            agent = Agent(config, PYTHONPATH=installed["PYTHONPATH"])
            try:
                async with asyncio.timeout(100):
                    seen: set[str] = set()
                    while len(seen := seen | guests(stub)) < 5:
                        assert agent.process.poll() is None, agent.log
                        await asyncio.sleep(0.05)
            finally:
                agent.stop()
    assert agent.events("webhook.closed")


def guests(stub: Stub) -> set[str]:
    """Return the guests whose CPU time has come since the last time."""
    numbers = [json.loads(line) for each in stub.requests for line in each.body.splitlines()]
    stub.requests.clear()
    return {each["domain"] for each in numbers if each["field"].endswith("cpu_time_seconds")}
