"""The demo: the agent and simulated guests in one command."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvloop

from virtstatd.collect.bulk.options import PollOptions
from virtstatd.config.file import load_text
from virtstatd.errors import StartError
from virtstatd.runtime import logs
from virtstatd.service.daemon import serve
from virtstatd.service.notify import Notify
from virtstatd.service.signals import Signals


ENDING_SECONDS = 5.0

# shorter intervals than the defaults, so that numbers change visibly; simulated guests have
# no processes on this host to read, and no cost to limit
CONFIG = """
[hypervisor]
uri = {uri}
[poll.pulse]
interval_seconds = 1.0
[poll.monitor]
interval_seconds = 1.0
[poll.extra]
interval_seconds = 5.0
[local]
enabled = false
[budget]
host_cpu_percent = 0
[agent]
interval_seconds = 1.0
[[sink]]
type = "prometheus"
listen_address = {address}
"""


def demonstrate(domains: int, address: str) -> None:
    """
    Show `domains` simulated guests at `address` until SIGINT, SIGTERM or a hangup of the terminal.

    Raises `StartError` when the simulator or the page cannot start here.
    """
    with simulated(domains) as uri:
        # before any thread, but after the simulator, which would inherit that they are blocked;
        # SIGHUP ends it too: a demo has no file to reload
        signals = Signals(hangup_ends=True)
        with (
            logs.opened("error") as opened,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            text = CONFIG.format(uri=json.dumps(uri), address=json.dumps(address))
            running = load_text(text, None)
            welcome = Welcome(domains, address, running.config.collect["poll"])
            runner.run(serve(running, opened, welcome, signals))


def called() -> str:
    """Return how a person calls this program: by its name where a shell finds it."""
    program = Path(sys.argv[0])
    found = shutil.which("virtstatd")
    if program.name != "virtstatd" or (found and program.resolve() == Path(found).resolve()):
        return "virtstatd"
    return shlex.quote(str(program))


class Welcome(Notify):
    """Prints the page's address first, and the polling intervals, once the agent serves."""

    def __init__(self, domains: int, address: str, poll: PollOptions) -> None:
        super().__init__()
        at = f"http://{'' if address.rpartition(':')[0] else '127.0.0.1'}{address}"
        self._text = (
            f"Open {at}/ in a browser: {domains} simulated guests, no hypervisor.\n"
            f"In a terminal: {called()} top --url {at}\n"
            f"Metrics: {at}/metrics\n"
            f"{intervals(poll)}\n"
            "Ctrl-C ends the demo.\n"
        )

    def ready(self, status: str = "") -> bool:
        """Print it."""
        with suppress(OSError):  # the output has no reader
            sys.stdout.write(self._text)
            sys.stdout.flush()
        return super().ready(status)


def intervals(poll: PollOptions) -> str:
    """Compare the intervals of a configuration with the defaults."""
    usual = PollOptions()
    tiers = (
        ("pulse", poll.pulse.interval_seconds, usual.pulse.interval_seconds),
        ("monitor", poll.monitor.interval_seconds, usual.monitor.interval_seconds),
        ("extra", poll.extra.interval_seconds, usual.extra.interval_seconds),
    )
    each = ", ".join(f"{tier} every {here:g} s ({default:g} s)" for tier, here, default in tiers)
    return f"Polled faster than by default (in brackets): {each}."


@contextmanager
def simulated(domains: int) -> Iterator[str]:
    """
    Run a simulator in a process of its own and return the URI to open.

    In the agent's process its CPU time and memory would count as the agent's.
    """
    process = subprocess.Popen(  # noqa: S603 - ourselves
        # -P: no file in the working directory can shadow a module
        [
            *(sys.executable, "-P", "-m", "virtstatd_simulator.child"),
            str(domains),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the agent, which ends first
    )
    try:
        said = json.loads(process.stdout.readline() or "{}") if process.stdout else {}
        if "uri" not in said:
            reason = said.get("error", f"{sys.executable} could not run it")
            raise StartError(f"the simulator did not start: {reason}")
        yield said["uri"]
    finally:
        try:
            process.communicate(timeout=ENDING_SECONDS)  # it ends with its standard input
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
