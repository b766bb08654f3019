"""
What watching a host costs: virtstatd and others on the same real guests, one after another.

Run as root with `PYTHONPATH=agent:tests python tests/bench/host_bench.py [FILE.json] [--guests N]
[--rounds N] [--seconds N]`. A private libvirtd has N paused guests (300), each with four vCPUs, two
disks and a NIC. In each round every tool runs by itself: until it is steady, then for a window in
which the CPU time of the tool, of libvirtd and of all QEMUs is counted, thread by thread, as the
scheduler has it. Figures are medians over the rounds, ratios are taken within a round. Tools that
are not installed are named and left out. Everything is asked for or scraped each 15 s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import libvirt

from lab.support.hypervisor import Lab
from support.agent import Agent
from support.ports import free_port
from support.spending import Spending


GUESTS, ROUNDS, SECONDS = 300, 3, 60.0
INTERVAL = 15.0
SETTLE_SECONDS = float(os.environ.get("SETTLE_SECONDS", "75"))
"""All tiers of an agent have been polled by then, and guests are described."""

BUDGETS = (1, 3)
BUDGET_SECONDS = 300.0
"""Shares of the host's CPUs, in percent, and after how long their intervals are read."""

EVERY_GROUP = """
[poll.pulse]
groups = ["state", "interface", "perf", "memory"]
[poll.monitor]
groups = ["cpu_total", "balloon", "vcpu", "block"]
"""
"""The groups at the pace of their tiers, whatever the kernel shows of them."""

EXPORTERS_SERIES = f"""
[poll.pulse]
interval_seconds = {INTERVAL}
[poll.extra]
groups = []
[local]
interval_seconds = {INTERVAL}
cgroup_interval_seconds = 300
details = false
[defined]
enabled = false
[pools]
enabled = false
[networks]
enabled = false
[jobs]
enabled = false
[storage]
enabled = false
"""
"""Few groups, polled as often as that exporter is scraped; what the kernel shows comes from it."""

EXPORTERS_SINK = """
names = "kumina"
keep = [
    "libvirt_domain_block_stats_*", "libvirt_domain_info_cpu_time_*", "libvirt_domains_number",
    "libvirt_domain_info_m*_bytes", "libvirt_domain_info_virtual_cpus", "libvirt_up",
    "libvirt_domain_interface_stats_*", "libvirt_domain_state_code",
]
"""

CONFIG = """
[hypervisor]
uri = {uri}
[budget]
host_cpu_percent = {budget}
[web]
history_bytes = 0
[[sink]]
type = "prometheus"
listen_address = "127.0.0.1:0"
{sink}
{more}
"""
COLLECTD = """
Interval {interval:.0f}
BaseDir "{folder}"
LoadPlugin virt
LoadPlugin write_prometheus
<Plugin write_prometheus>
  Host "127.0.0.1"
  Port "{port}"
</Plugin>
<Plugin virt>
  Connection "{uri}"
  RefreshInterval 60
  HostnameFormat uuid
  ExtraStats "cpu_util disk disk_err domain_state job_stats_background memory pcpu perf vcpu"
</Plugin>
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A tool that is steady: its processes, what to do each interval, and its number of series."""

    pids: tuple[int, ...]
    each: Callable[[], float]
    """Does what its user does each interval; returns CPU seconds of children that ended."""

    series: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Window:
    """What one tool cost in one round, in milliseconds of CPU a second."""

    tool: float
    libvirtd: float
    guests: float
    series: int

    @property
    def host(self) -> float:
        """All of it."""
        return self.tool + self.libvirtd + self.guests


Tool = Callable[[Lab, Path], AbstractContextManager[Running]]


def page_of(address: str) -> str:
    """Scrape a page."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def lines_of(page: str) -> int:
    """Return the number of series on a page."""
    return sum(bool(line) and not line.startswith("#") for line in page.splitlines())


def scraped(address: str) -> Callable[[], float]:
    """Return what scrapes an address."""

    def each() -> float:
        page_of(address)
        return 0.0

    return each


def agent(more: str = "", sink: str = "", budget: float = 0) -> Tool:
    """Return an agent with its default configuration and these lines."""

    @contextmanager
    def tool(lab: Lab, folder: Path) -> Iterator[Running]:
        file = folder / "virtstatd.toml"
        uri = json.dumps(lab.uri_readonly)
        file.write_text(CONFIG.format(uri=uri, budget=budget, sink=sink, more=more))
        running = Agent(file)
        try:
            address = running.address
            time.sleep(SETTLE_SECONDS)
            yield Running((running.pid,), scraped(address), lambda: lines_of(page_of(address)))
        finally:
            running.stop()

    return tool


@contextmanager
def exporter(lab: Lab, folder: Path) -> Iterator[Running]:
    """Run Debian's exporter."""
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus-libvirt-exporter", f"--web.listen-address={address}"]
    with started(folder, [*command, f"--libvirt.uri={lab.uri_readonly}"]) as pid:
        until(lambda: lines_of(page_of(f"http://{address}")) > 0)
        page = f"http://{address}"
        yield Running((pid,), scraped(page), lambda: lines_of(page_of(page)))


@contextmanager
def collectd(lab: Lab, folder: Path) -> Iterator[Running]:
    """Run collectd with its plug-in for libvirt and all that it can say."""
    file, port = folder / "collectd.conf", free_port()
    file.write_text(
        COLLECTD.format(interval=INTERVAL, folder=folder, uri=lab.uri_readonly, port=port)
    )
    page = f"http://127.0.0.1:{port}"
    with started(folder, ["collectd", "-f", "-C", str(file)]) as pid:
        until(lambda: lines_of(page_of(page)) > len(lab.definitions))
        time.sleep(2 * INTERVAL)
        yield Running((pid,), scraped(page), lambda: lines_of(page_of(page)))


@contextmanager
def virsh(lab: Lab, _: Path) -> Iterator[Running]:
    """Call `virsh domstats` for all guests."""
    command = ["virsh", "-r", "-c", lab.uri_readonly, "domstats"]

    def ask() -> tuple[float, int]:
        began = children_seconds()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return children_seconds() - began, done.stdout.count("=")

    yield Running((), lambda: ask()[0], lambda: ask()[1])


@contextmanager
def nothing(_: Lab, __: Path) -> Iterator[Running]:
    """Run no tool."""
    yield Running((), lambda: 0.0, lambda: 0)


def children_seconds() -> float:
    """Return the CPU time of the children that this process has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def started(folder: Path, command: Sequence[str]) -> Iterator[int]:
    """Run a program until the end of the block."""
    with (
        (folder / "output").open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as process,
    ):
        try:
            yield process.pid
        finally:
            process.terminate()


def until(what: Callable[[], bool]) -> None:
    """Wait a minute for something, whatever goes wrong before."""
    ends = time.monotonic() + 60
    while True:
        try:
            if what():
                return
        except OSError:
            pass
        if time.monotonic() > ends:
            raise TimeoutError("a tool does not work")
        time.sleep(0.5)


def stretched(lab: Lab, percent: float, seconds: float) -> dict[str, float]:
    """Return the intervals of the tiers that a budget leaves after so long."""
    with tempfile.TemporaryDirectory(prefix="virtstatd-bench-") as name:
        file = Path(name) / "virtstatd.toml"
        uri = json.dumps(lab.uri_readonly)
        file.write_text(CONFIG.format(uri=uri, budget=percent, sink="", more=""))
        running = Agent(file)
        try:
            time.sleep(seconds)
            return {
                dict(labels)["tier"]: round(number, 1)
                for (metric, labels), number in running.samples().items()
                if metric == "virtstatd_interval_seconds"
            }
        finally:
            running.stop()


EVERY = "virtstatd, every group at each poll"
TOOLS: dict[str, tuple[str, Tool]] = {
    "nothing": ("", nothing),
    "virtstatd": ("", agent()),
    EVERY: ("", agent(EVERY_GROUP)),
    "virtstatd, profile lean": ("", agent(sink='profile = "lean"')),
    "virtstatd, the exporter's series": ("", agent(EXPORTERS_SERIES, EXPORTERS_SINK)),
    "prometheus-libvirt-exporter": ("prometheus-libvirt-exporter", exporter),
    "collectd virt": ("collectd", collectd),
    "virsh domstats": ("virsh", virsh),
}
PEERS = ("prometheus-libvirt-exporter", "collectd virt", "virsh domstats")


def measured(lab: Lab, tool: Tool, seconds: float) -> Window:
    """Return what a tool costs in a window."""
    with (
        tempfile.TemporaryDirectory(prefix="virtstatd-bench-") as name,
        tool(lab, Path(name)) as on,
    ):
        qemus = [lab.qemu_pid(guest) for guest in lab.definitions]
        on.each()
        began = time.monotonic()
        own, daemon, guests = Spending(on.pids), Spending([lab.pid]), Spending(qemus)
        children = 0.0
        while (passed := time.monotonic() - began) < seconds:
            time.sleep(min(INTERVAL, seconds - passed))
            children += on.each()
        lasted = time.monotonic() - began
        spent = [each.seconds() / lasted * 1e3 for each in (own, daemon, guests)]
        return Window(spent[0] + children / lasted * 1e3, spent[1], spent[2], on.series())


def floors(lab: Lab) -> dict[str, float]:
    """Return the CPU milliseconds of this process for a bare call for all guests' statistics."""
    connection = libvirt.openReadOnly(lab.uri_readonly)
    spent: list[float] = []
    for _ in range(5):
        began = time.process_time()
        records = connection.getAllDomainStats(0, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE)
        spent.append(1e3 * (time.process_time() - began))
        numbers = sum(len(record) for _, record in records)
    connection.close()
    return {"call_ms": round(median(spent), 2), "numbers": numbers}


def compared(rounds: Sequence[dict[str, Window]]) -> dict[str, float]:
    """Return the ratios that the project promises, as medians of those within each round."""

    def of(ratio: Callable[[dict[str, Window]], float]) -> float:
        return round(median(ratio(each) for each in rounds), 3)

    def cost(each: dict[str, Window], name: str) -> float:
        return each[name].host - (each["nothing"].host if "nothing" in each else 0.0)

    def per_sample(each: dict[str, Window], name: str) -> float:
        return cost(each, name) / max(1, each[name].series)

    names = rounds[0].keys()
    ratios: dict[str, float] = {}
    if {"virtstatd", EVERY} <= names:
        ratios["default against every group"] = of(
            lambda each: cost(each, "virtstatd") / cost(each, EVERY)
        )
    if {"virtstatd, the exporter's series", "prometheus-libvirt-exporter"} <= names:
        ratios["the exporter's series against the exporter"] = of(
            lambda each: (
                cost(each, "virtstatd, the exporter's series")
                / cost(each, "prometheus-libvirt-exporter")
            )
        )
    peers = [name for name in PEERS if name in names]
    if peers and "virtstatd" in names:
        ratios["per sample against the best peer"] = of(
            lambda each: (
                per_sample(each, "virtstatd") / min(per_sample(each, peer) for peer in peers)
            )
        )
    return ratios


def main() -> None:
    """Print a line for each tool and ratio, and write all as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--guests", type=int, default=GUESTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--tools", nargs="*", default=[*TOOLS], choices=[*TOOLS])
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    options = parser.parse_args()
    missing = [program for program, _ in TOOLS.values() if program and not shutil.which(program)]
    for program in missing:
        sys.stdout.write(f"{program} is not installed, so it is left out\n")
    rounds: list[dict[str, Window]] = []
    with Lab() as lab:
        lab.paused_guests(options.guests)
        floor = floors(lab)
        sys.stdout.write(f"one call of the binding: {floor['call_ms']} ms for {floor['numbers']}\n")
        for _ in range(options.rounds):
            rounds.append({})
            for name, (program, tool) in TOOLS.items():
                if name in options.tools and program not in missing:
                    rounds[-1][name] = one = measured(lab, tool, options.seconds)
                    sys.stdout.write(line_of(name, one) + "\n")
                    sys.stdout.flush()
        budgets = {f"{each:g} %": stretched(lab, each, BUDGET_SECONDS) for each in options.budgets}
    for name, tiers in budgets.items():
        sys.stdout.write(f"budget {name}: intervals {tiers}\n")
    sys.stdout.write("medians\n")
    medians = {
        name: Window(
            *(median(getattr(each[name], key) for each in rounds) for key in Window.__slots__)
        )
        for name in rounds[0]
    }
    for name, window in medians.items():
        sys.stdout.write(line_of(name, window) + "\n")
    ratios = compared(rounds)
    for name, ratio in ratios.items():
        sys.stdout.write(f"{name}: {ratio}\n")
    if options.file:
        tools = {name: asdict(window) for name, window in medians.items()}
        result = {
            "guests": options.guests,
            "floor": floor,
            "budgets": budgets,
            "tools": tools,
            "ratios": ratios,
        }
        options.file.write_text(json.dumps(result, indent=1))


def line_of(name: str, window: Window) -> str:
    """Return a line of the table."""
    return (
        f"{name:>36}: tool {window.tool:7.1f}, libvirtd {window.libvirtd:7.1f}, guests"
        f" {window.guests:7.1f}, all {window.host:7.1f} ms/s; {window.series:7.0f} series"
    )


if __name__ == "__main__":
    main()
