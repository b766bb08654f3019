"""The container image of the packages, run before a real libvirtd as systemd/README.md shows."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lab.support.fixtures import opened
from lab.support.hypervisor import Lab
from lab.support.namespaces import Trace
from matrix.conftest import TIMEOUT_SECONDS
from matrix.support.ahead import packaged
from matrix.support.generation import CHECKOUT
from support.ports import free_port
from support.roots import Unreachable, mirror
from system.support.machine import until


SUITE = "bookworm"
TOOLS = ("buildah", "podman", "mmdebstrap")
RUNTIMES = ("runc", "crun")  # the first one knows cgroups of both versions at once
NAME = "virtstatd"
NOBODY = "65534"
STORAGE = '[storage]\ndriver = "vfs"\ngraphroot = "{0}/graph"\nrunroot = "{0}/run"\n'
ENGINE = """
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "{runtime}"
tmp_dir = "{folder}/tmp"
"""

pytestmark = [
    pytest.mark.soak,
    pytest.mark.needs("root"),
    pytest.mark.timeout(TIMEOUT_SECONDS),
]


class Containers:
    """Podman with a storage of its own, and the image in it."""

    def __init__(self, folder: Path, runtime: str) -> None:
        storage, engine = folder / "storage.conf", folder / "engine.conf"
        storage.write_text(STORAGE.format(folder))
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)  # podman would like more
        engine.write_text(ENGINE.format(folder=folder, runtime=runtime, files=files))
        self.image = folder / "image"
        own = {"CONTAINERS_STORAGE_CONF": str(storage), "CONTAINERS_CONF": str(engine)}
        self._environment = os.environ | own

    def run(self, *command: str | Path) -> str:
        """Run a command to its end, and return what it writes."""
        done = subprocess.run(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def shown(self, of: str) -> str:
        """Return a value of the container, as podman's template names it."""
        return self.run("podman", "inspect", "--format", f"{{{{{of}}}}}", NAME).strip()


@pytest.fixture
def containers(packages: Path, tmp_path: Path) -> Iterator[Containers]:
    """Build the image as `make image` does; afterwards nothing of it is left."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    runtimes = [tool for tool in RUNTIMES if shutil.which(tool)]
    if missing or not runtimes:
        pytest.skip(f"missing here: {', '.join(missing or [' or '.join(RUNTIMES)])}")
    try:
        package = packaged(SUITE, packages)
        made = Containers(tmp_path, runtimes[0])
        debs = sorted(package.parent.glob(f"*_{package.name.split('_', 1)[1]}"))
        made.run(CHECKOUT / "systemd/container/build", made.image, mirror(), *debs)
    except Unreachable as error:
        pytest.skip(str(error))
    try:
        yield made
    finally:
        made.run("podman", "rm", "--all", "--force", "--time=0")
        made.run("podman", "rmi", "--all", "--force")
        made.run("podman", "volume", "prune", "--force")
        shutil.rmtree(tmp_path)  # half a gigabyte


@pytest.fixture
def guests(traces: list[Trace]) -> Iterator[Lab]:
    """Start a real libvirtd with three guests."""
    with opened(traces) as lab:
        lab.paused_guests(3)
        yield lab


def documented(replaced: Mapping[str, str]) -> list[list[str]]:
    """Return podman's commands in systemd/README.md, with other paths."""
    text = (CHECKOUT / "systemd/README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^# (podman .*)$", text, re.MULTILINE)
    for found, instead in replaced.items():
        commands = [each.replace(found, instead) for each in commands]
    return [shlex.split(each) for each in commands]


def test_the_image_has_real_guests_on_its_page(containers: Containers, guests: Lab, tmp_path: Path):
    """The commands of the README start it as nobody without capabilities; a stop is clean."""
    port = free_port()
    configuration = tmp_path / "etc"
    configuration.mkdir()
    (configuration / "virtstatd.toml").write_text(f'[web]\nlisten_address = "127.0.0.1:{port}"\n')
    places = {
        "build/image.tar": f"{containers.image}.tar",
        "-v /run/libvirt:": f"-v {guests.directory}/run:",
        "-v /etc/virtstatd:": f"-v {configuration}:",
    }
    load, run = documented(places)
    containers.run("podman", "rmi", "--all", "--force")  # what the build has left there
    containers.run(*load)
    containers.run(*run)
    process = Path("/proc", containers.shown(".State.Pid"))

    def page() -> str:
        log = containers.run("podman", "logs", NAME)
        assert containers.shown(".State.Running") == "true", log
        if "agent.found" not in log:
            return ""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text: str = answer.read().decode()
        return text if all(f'"{name}"' in text for name in guests.names()) else ""

    text = until(page, "the guests on the page")
    assert "libvirt_domain_vcpu_delay_seconds_total{" in text  # which only the kernel has
    log = containers.run("podman", "logs", NAME).splitlines()
    found = next(line for line in map(json.loads, log) if line["event"] == "agent.found")
    assert (found["guests"], found["missing"]) == (3, [])
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert set(status["Uid"].split()) == {NOBODY}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0

    containers.run("podman", "stop", NAME)
    assert containers.shown(".State.ExitCode") == "0"
    assert "agent.stopped" in containers.run("podman", "logs", NAME)
    assert not process.exists()
    containers.run("podman", "rm", NAME)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
