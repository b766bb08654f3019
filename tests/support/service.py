"""An agent with a file that changes: what reloads and signals do to it is tested with this."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from support.agent import Agent, parsed
from support.ports import free_port
from support.simulator import Simulated


HEAD = """
[hypervisor]
uri = {uri}
[poll.pulse]
interval_seconds = {pulse}
[local]
enabled = false
[budget]
host_cpu_percent = 0
[agent]
interval_seconds = 1.0
drain_seconds = {drain}
"""
PAGE = """
[[sink]]
type = "prometheus"
name = {name}
listen_address = "127.0.0.1:{port}"
"""
HANGS = """
[[sink]]
type = "influx"
url = "http://127.0.0.1:{port}"
attempt_seconds = 100
"""


class Service:
    """An agent and its file."""

    def __init__(self, folder: Path, simulator: Simulated) -> None:
        self.file = folder / "virtstatd.toml"
        self.simulator = simulator
        self.port = free_port()
        self.agent: Agent

    def text(self, *sinks: str, pulse: float = 1.0, drain: float = 5.0) -> str:
        """Return a file with a page and these sinks."""
        head = HEAD.format(uri=json.dumps(self.simulator.uri), pulse=pulse, drain=drain)
        return head + PAGE.format(name='"page"', port=self.port) + "".join(sinks)

    def write(self, text: str) -> None:
        """Replace the file as a whole."""
        draft = self.file.with_name("draft")
        draft.write_text(text)
        draft.rename(self.file)

    def send(self, number: int) -> None:
        """Send a signal."""
        self.agent.process.send_signal(number)

    def starts(self) -> int:
        """Return how often it has started."""
        return len(self.agent.events("agent.started"))

    def until_started(self, times: int = 1) -> None:
        """Wait until it has started so often."""
        self.agent.wait_for(lambda: self.starts() >= times)

    def until_rejected(self, times: int = 1) -> list[str]:
        """Wait until a file was rejected so often; return the faults."""
        self.agent.wait_for(lambda: len(self.agent.events("config.rejected")) >= times)
        faults = self.agent.events("config.rejected")[times - 1]["faults"]
        assert isinstance(faults, list)
        return faults

    def until_draining(self) -> None:
        """Wait until libvirt is left and the sinks get their last batches."""
        self.agent.wait_for(lambda: self.simulator.do("status")["clients"] == 0)

    def pulse(self) -> float | None:
        """Return the interval that the page says is in force, None where there is no page."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/metrics", timeout=100
            ) as page:
                samples = parsed(page.read().decode())
        except (OSError, HTTPException):  # an agent that ends cuts it off
            return None
        return samples.get(("virtstatd_interval_seconds", (("tier", "pulse"),)))

    def until_pulse(self, seconds: float) -> None:
        """Wait until an interval is in force."""
        self.agent.wait_for(lambda: self.pulse() == seconds)

    def serves(self) -> bool:
        """Tell whether something listens at the page's port."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def ended(self) -> int:
        """Wait for the end, and return the status."""
        status = self.agent.process.wait(100)
        self.agent.stop()
        return status


@contextmanager
def service(
    folder: Path,
    simulator: Simulated,
    *sinks: str,
    drain: float = 5.0,
    **environ: str,
) -> Iterator[Service]:
    """Run an agent that has started; it is stopped in the end."""
    made = Service(folder, simulator)
    made.write(made.text(*sinks, drain=drain))
    made.agent = Agent(made.file, python=(), inside=(), **environ)
    try:
        made.until_started()
        yield made
    finally:
        made.agent.stop()
