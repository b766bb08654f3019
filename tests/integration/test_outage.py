"""A real server that is killed and comes back, behind a spool."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from running import Agent, running


DOMAINS = 60
CPU_TIME = "libvirt_domain_info_cpu_time_seconds_total"
SPOOL = """
[[sink]]
type = "remote_write"
name = "store"
url = "{url}/api/v1/write"
buffer_bytes = 2097152
spool_bytes = 67108864
"""


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process; it is killed in the end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        try:
            yield started
        finally:
            started.kill()


def of_store(agent: Agent, name: str) -> float:
    """Return one of the agent's numbers of the sink, over all reasons."""
    return sum(
        value
        for (each, labels), value in agent.samples().items()
        if each == name and ("sink", "store") in labels
    )


@pytest.mark.parametrize(
    "seconds", [5, pytest.param(120, marks=[pytest.mark.soak, pytest.mark.timeout(400)])]
)
def test_a_server_that_is_killed_has_everything_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
):
    """VictoriaMetrics is killed and comes back: every sample arrives, and no poll lacks between."""
    binary = shutil.which("victoria-metrics")
    if not binary:
        pytest.skip("needs victoria-metrics")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    port, libvirt = free_port(), tmp_path / "libvirt"
    url = f"http://127.0.0.1:{port}"
    server = (binary, f"-storageDataPath={tmp_path / 'db'}", f"-httpListenAddr=127.0.0.1:{port}")
    simulate = ("-m", "virtstatd", "simulate", "--socket", str(libvirt), "--domains", str(DOMAINS))
    with process(sys.executable, *simulate):
        while not libvirt.exists():
            time.sleep(0.05)
        with running(
            tmp_path,
            f"qemu+unix:///system?socket={libvirt}",
            more=SPOOL.format(url=url),
        ) as agent:
            with process(*server):
                agent.wait_for(
                    lambda: of_store(agent, "virtstatd_sink_delivered_batches_total") > 5
                )
            time.sleep(seconds)
            assert of_store(agent, "virtstatd_sink_waiting_batches") >= 2 * seconds
            with process(*server):
                agent.wait_for(lambda: of_store(agent, "virtstatd_sink_waiting_batches") < 2, 120)
                assert of_store(agent, "virtstatd_sink_lost_samples_total") == 0
                assert of_store(agent, "virtstatd_sink_dropped_samples_total") == 0
                urllib.request.urlopen(f"{url}/internal/force_flush", timeout=30).close()
                query = f"{url}/api/v1/export?match[]={CPU_TIME}"
                with urllib.request.urlopen(query, timeout=30) as answer:
                    series = [json.loads(line) for line in answer.read().decode().splitlines()]
                shown = sum(name == CPU_TIME for name, _ in agent.samples())
    assert len(series) == shown > DOMAINS // 2
    for each in series:
        times = each["timestamps"]
        assert times == sorted(set(times)), "out of order or doubled"
        # a tick may be skipped on a loaded machine, an outage may not show
        assert max(later - before for before, later in pairwise(times)) < 1000 * (seconds - 1)
