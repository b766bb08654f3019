"""The demo: the agent before guests that are made up, one command for both."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvloop

from virtstatd.config.file import parse_config
from virtstatd.errors import StartError
from virtstatd.runtime import logs
from virtstatd.service.daemon import serve
from virtstatd.service.notify import Notify


RELEASE = 12  # the statistics of a present libvirt
ENDING_SECONDS = 5.0

# simulated guests have no processes on this host that could be looked at, nor a cost to limit
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
    Show `domains` simulated guests at `address` until SIGINT, SIGTERM or the terminal's end.

    Raises `StartError` when the simulator or the page cannot start here.
    """
    with simulated(domains) as uri, logs.opened("warning") as opened:
        text = CONFIG.format(uri=json.dumps(uri), address=json.dumps(address))
        config = parse_config(text, "demo")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            # SIGHUP, too, ends it: a demo has no file to read again
            runner.run(serve(config, None, opened, Welcome(domains, address)))


class Welcome(Notify):
    """Says where the page is, once the agent serves."""

    def __init__(self, domains: int, address: str) -> None:
        super().__init__()
        host = "" if address.rpartition(":")[0] else "127.0.0.1"
        self._text = (
            f"{domains} simulated guests, no hypervisor: http://{host}{address}/metrics\n"
            "Ctrl-C ends the demo.\n"
        )

    def ready(self, status: str = "") -> bool:
        """Say it."""
        with suppress(OSError):  # nobody reads it
            sys.stdout.write(self._text)
            sys.stdout.flush()
        return super().ready(status)


@contextmanager
def simulated(domains: int) -> Iterator[str]:
    """
    Run a simulator in a process of its own and give the URI to open.

    It is a process apart so that what the agent tells of itself is the agent's alone.
    """
    process = subprocess.Popen(  # noqa: S603 - ourselves
        # -P: nothing in the present directory stands in for a module
        [
            *(sys.executable, "-P", "-m", "virtstatd_simulator.child"),
            *(str(domains), str(RELEASE)),
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
