"""A running agent as its users have it: the command, a file, a log, a page."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families


Series = tuple[str, tuple[tuple[str, str], ...]]


class Agent:
    """`virtstatd run` in a process of its own, with its log read as it comes."""

    program: tuple[str, ...] = ("-m", "virtstatd")
    """What Python runs."""

    def __init__(
        self,
        config: Path,
        *,
        python: tuple[str, ...] = (),
        inside: tuple[str, ...] = (),
        **environ: str,
    ) -> None:
        self.log: list[dict[str, object]] = []
        self.process = subprocess.Popen(
            [*inside, sys.executable, *python, *self.program, "run", "--config", str(config)],
            stderr=subprocess.PIPE,
            env=os.environ | environ,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "not_json", "line": line})

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the log lines of one event."""
        return [line for line in list(self.log) if line.get("event") == name]

    def wait_for(self, what: Callable[[], object], seconds: float = 150.0) -> float:
        """Wait until something is so; return how long it took."""
        begun = time.monotonic()
        while (looked := time.monotonic()) - begun < seconds:
            if what():
                return time.monotonic() - begun
            assert self.process.poll() is None, (
                f"the agent ended with {self.process.poll()}: {self.log[-5:]}"
            )
            # a page of many guests takes long to read: half of the time is left to the others
            time.sleep(max(0.02, time.monotonic() - looked))
        raise AssertionError(f"did not come to be within {seconds} s; log: {self.log[-10:]}")

    @property
    def address(self) -> str:
        """Where the page is, once it is."""
        self.wait_for(lambda: self.events("web.listening"))
        return f"http://127.0.0.1:{self.events('web.listening')[0]['port']}"

    def page(self, accept: str = "text/plain") -> str:
        """Return the page as a scraper sees it."""
        request = urllib.request.Request(f"{self.address}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=100) as answer:
            return str(answer.read().decode())

    def samples(self) -> dict[Series, float]:
        """Return the page as series with their values; fails where one occurs twice."""
        return parsed(self.page())

    def value(self, name: str, **labels: str) -> float | None:
        """Return one series' value, None where it is not shown."""
        return self.samples().get((name, tuple(sorted(labels.items()))))

    def stop(self) -> int:
        """Stop as systemd does, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(100)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self._reader.join(100)
        assert self.process.stderr
        self.process.stderr.close()
        return code


def parsed(page: str) -> dict[Series, float]:
    """Read a page with the reference parser."""
    samples: dict[Series, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, f"{key} occurs twice"
            samples[key] = sample.value
    return samples


CONFIG = """
[hypervisor]
uri = {uri}
{hypervisor}
[poll.pulse]
interval_seconds = {pulse}
{groups[pulse]}
[poll.monitor]
interval_seconds = {monitor}
backing_chains = {backing}
{groups[monitor]}
[poll.extra]
interval_seconds = {extra}
{groups[extra]}
[local]
enabled = {local}
interval_seconds = {look}
cgroup_interval_seconds = {cgroup}
[budget]
host_cpu_percent = {budget}
series_per_guest = {series}
[agent]
interval_seconds = 1.0
drain_seconds = {drain}
[[sink]]
type = "prometheus"
listen_address = "127.0.0.1:0"
"""
LINES = """
[[sink]]
type = "jsonl"
target = {lines}
"""


@contextmanager
def running(
    folder: Path,
    uri: str,
    *,
    pulse: float = 1.0,
    monitor: float = 1.0,
    extra: float = 2.0,
    groups: Mapping[str, Sequence[str]] | None = None,
    local: bool = False,
    look: float = 1.0,
    cgroup: float = 1.0,
    budget: float = 0.0,
    series: int = 20_000,
    backing: bool = False,
    hypervisor: str = "",
    drain: float = 5.0,
    lines: Path | None = None,
    more: str = "",
    python: tuple[str, ...] = (),
    inside: tuple[str, ...] = (),
    **environ: str,
) -> Iterator[Agent]:
    """
    Run an agent against a hypervisor; it is stopped in the end, whatever happens.

    `groups` are those of some tiers, `lines` is a file for JSON lines, and `inside` is a command
    that becomes the one behind it.
    """
    asked = {tier: f"groups = {json.dumps(each)}" for tier, each in (groups or {}).items()}
    file = folder / "virtstatd.toml"
    text = CONFIG.format(
        uri=json.dumps(uri),
        pulse=pulse,
        monitor=monitor,
        extra=extra,
        groups=defaultdict(str, asked),
        local=json.dumps(local),
        look=look,
        cgroup=cgroup,
        budget=budget,
        series=series,
        backing=json.dumps(backing),
        hypervisor=hypervisor,
        drain=drain,
    )
    if lines:
        text += LINES.format(lines=json.dumps(str(lines)))
    file.write_text(text + more)
    agent = Agent(file, python=python, inside=inside, **environ)
    try:
        yield agent
    finally:
        agent.stop()
