"""The agent as a service of a booted machine: fixtures and what the tests ask of it."""

import os
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.servers import needs
from system.support.machine import Machine, booted, may_boot


REPOSITORY = Path(__file__).parents[3]
PYTHON = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
NAME = "virtstatd.service"
CONFIGURATION = "/etc/virtstatd/virtstatd.toml"
OVERRIDE = f"/run/systemd/system/{NAME}.d/test.conf"
METRICS = "http://127.0.0.1:9766/metrics"

# What `make install` makes of /opt/virtstatd, put together from this environment's own parts.
ENVIRONMENT = "/opt/virtstatd"
PACKAGES = f"{ENVIRONMENT}/lib/{Path(PYTHON).name}/site-packages"
LAUNCHER = f"""#!{ENVIRONMENT}/bin/python
from virtstatd.__main__ import start
start()
"""

NEEDS = [
    needs("root", "systemd-nspawn", PYTHON),
    pytest.mark.skipif(
        os.geteuid() == 0 and not may_boot(),
        reason="this kernel or container does not let root make namespaces",
    ),
]
"""Marks of every module that asks for a machine."""


@pytest.fixture(scope="session")
def host() -> Iterator[Machine]:
    """Boot a machine with the agent and its unit installed."""
    parts = {
        REPOSITORY / "agent": f"{ENVIRONMENT}/agent",
        Path(sysconfig.get_path("platlib")): f"{ENVIRONMENT}/packages",
    }
    with booted(parts) as machine:
        machine.write(f"{ENVIRONMENT}/pyvenv.cfg", f"home = {Path(PYTHON).parent}\n")
        machine.write(f"{PACKAGES}/parts.pth", "\n".join(parts.values()))
        machine.write(f"{ENVIRONMENT}/bin/virtstatd", LAUNCHER, 0o755)
        machine.run("ln", "-s", PYTHON, f"{ENVIRONMENT}/bin/python")
        machine.write(f"/etc/systemd/system/{NAME}", (REPOSITORY / "systemd" / NAME).read_text())
        # A unit that nothing refers to is forgotten when it stops, and its result with it.
        machine.run("systemctl", "add-wants", "basic.target", NAME)
        yield machine


@pytest.fixture
def machine(host: Machine) -> Iterator[Machine]:
    """Hand over the machine with the service stopped and nothing changed."""
    host.since = time.time()
    host.write(CONFIGURATION, "")
    host.run("rm", "-f", OVERRIDE)
    host.run("systemctl", "daemon-reload")
    yield host
    host.run("systemctl", "stop", NAME)
    host.run("systemctl", "reset-failed", NAME)


def scrape(machine: Machine) -> list[str]:
    """Return the lines of the service's metrics, none while it does not answer."""
    program = f"import urllib.request as u; print(u.urlopen({METRICS!r}).read().decode())"
    return machine.run(PYTHON, "-c", program, check=False).stdout.splitlines()


def start(machine: Machine) -> None:
    """Start the service, which has to succeed; its journal tells why it does not."""
    started = machine.run("systemctl", "start", NAME, check=False)
    assert started.returncode == 0, "\n".join(machine.journal(NAME))


def override(machine: Machine, *lines: str) -> None:
    """Change the unit's settings until the end of the test."""
    machine.write(OVERRIDE, "\n".join(["[Service]", *lines, ""]))
    machine.run("systemctl", "daemon-reload")
