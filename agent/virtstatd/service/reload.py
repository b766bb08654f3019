"""
Shutdown, and restart with a changed file in a way that never stops a working agent.

A file that is invalid, or that cannot work here, is refused while the agent continues. An accepted
file takes effect by executing the program again in the same process, with the text that was
checked: the file may have changed meanwhile. If that run nevertheless fails to start, the previous
configuration, which is passed on too, runs again.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, NoReturn

import msgspec
from structlog.typing import FilteringBoundLogger

import virtstatd
from virtstatd.config.file import Loaded, load_text
from virtstatd.errors import ConfigError, PortInUse
from virtstatd.insight.history import History
from virtstatd.runtime.worker import Worker
from virtstatd.sending.address import FIRST_INHERITED
from virtstatd.service.here import HERE_SECONDS, found_here
from virtstatd.service.notify import Notify
from virtstatd.service.signals import Signals
from virtstatd.service.web import socket_names


HANDED_OVER: Final = "VIRTSTATD_HANDED_OVER"
"""The process, and the descriptor of the state that is passed to its next run."""

HIGH: Final = 100
"""Descriptors from here on cannot collide with the low ones that are assigned for the next run."""


class Ending(Enum):
    """Why the agent ended: by a signal, or to restart with a changed configuration."""

    STOPPED = "stopped"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True)
class Ended:
    """
    How the agent ended.

    What its next run gets, if there is one: the configuration, sockets by name, and the last hour.
    """

    why: Ending
    accepted: Loaded | None
    sockets: Mapping[str, int]
    history: bytes = b""


class RunControl:
    """The effect of signals on a running agent; `stop` is set when it must end, `why` says why."""

    def __init__(
        self, running: Loaded, signals: Signals, log: FilteringBoundLogger, notify: Notify
    ) -> None:
        self.stop = asyncio.Event()
        self.why = Ending.STOPPED
        self.rejected = False
        self.sockets: dict[str, socket.socket] = {}
        self._accepted: Loaded | None = None
        self._kept: dict[str, int] = {}
        self._running = running
        self._signals = signals
        self._log = log
        self._notify = notify
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        signals.listen(lambda: loop.call_soon_threadsafe(self._look))
        self._look()

    async def run(self) -> None:
        """Check the file after each SIGHUP, until one is accepted and `stop` is set."""
        while not self.stop.is_set():
            await self._asked.wait()
            self._asked.clear()
            self._signals.reload = False  # signals that came until now are covered by this reading
            self._notify.reloading()
            faults = await self._faults()
            if faults:
                self.rejected = True
                self._log.error("config.rejected", faults=faults)
                self._notify.ready()
            elif not self.stop.is_set():
                self.why = Ending.RELOAD
                self.stop.set()

    def ended(self, history: History | None = None) -> Ended:
        """Return how it has ended."""
        accepted = self._accepted if self.why is Ending.RELOAD else None
        kept = history.dump() if history and accepted else b""
        return Ended(self.why, accepted, self._kept, kept)

    def _look(self) -> None:
        """Act on pending signals: an end takes precedence over a reload, even while that drains."""
        if self._signals.ending:
            self.why = Ending.STOPPED
            self._notify.stopping()
            self.stop.set()
        elif self._signals.reload:
            self._asked.set()

    async def _faults(self) -> list[str]:
        """Return the reasons against the file as it is now; nothing here blocks the loop."""
        found: list[Loaded] = []
        worker = Worker("reload")
        reading = worker.submit(lambda: found.append(self._running.again()))
        worker.close()
        await asyncio.wait([reading], timeout=HERE_SECONDS)
        if not reading.done():
            return [f"{self._running.name}: could not be read within {HERE_SECONDS:g} s"]
        try:
            reading.result()
        except ConfigError as error:
            return error.faults
        new = found[0]
        if faults := (await found_here(new.config, self._listens_at)).faults:
            return new.located(faults)
        before = {each.name: each.sink for each in self._running.config.sinks}
        kept = [each.name for each in new.config.sinks if before.get(each.name) == each.sink]
        for name in (*kept, *socket_names(new.config.places)):
            if name in self.sockets:
                self._kept[name] = os.dup(self.sockets[name].fileno())
        self._accepted = new
        return []

    def _listens_at(self, taken: PortInUse) -> bool:
        return taken.port in {sock.getsockname()[1] for sock in self.sockets.values()}


@dataclass(frozen=True, slots=True)
class ConfigText:
    """The text of a configuration, and the file that it was read from."""

    path: Path | None
    text: str

    def loaded(self) -> Loaded:
        """Read it; raises `ConfigError`."""
        return load_text(self.text, self.path)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What a run gets from the previous one: its configuration, the new one, the last hour."""

    former: ConfigText
    accepted: ConfigText | None
    history: bytes = b""


def handed_over(environ: MutableMapping[str, str] = os.environ) -> HandedOver | None:
    """Take what the previous run passed on, None if this run is the first."""
    process, _, number = environ.pop(HANDED_OVER, "").partition(":")
    if process != str(os.getpid()):
        return None
    with os.fdopen(int(number), "rb") as file:
        file.seek(0)
        return msgspec.json.decode(
            file.read(), type=HandedOver, dec_hook=lambda as_, text: as_(text)
        )


def begin_anew(
    running: Loaded, accepted: Loaded, sockets: Mapping[str, int], history: bytes = b""
) -> NoReturn:
    """
    Execute the same command in this process with another configuration.

    Listening sockets are passed on as in sd_listen_fds(3). Raises OSError.
    """
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH) for fd in sockets.values()]
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        # sockets that this run was given would stay open without being served
        with suppress(ValueError):
            os.closerange(FIRST_INHERITED, FIRST_INHERITED + int(os.environ["LISTEN_FDS"]))
    for place, fd in enumerate(high, FIRST_INHERITED):
        os.dup2(fd, place)
    os.environ |= {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(high)),
        "LISTEN_FDNAMES": ":".join(sockets),
    }
    former = ConfigText(running.path, running.text)
    _execute(HandedOver(former, ConfigText(accepted.path, accepted.text), history))


def restore(given: HandedOver) -> NoReturn:
    """Execute the same command with the previous configuration and this run's sockets."""
    _execute(HandedOver(given.former, None, given.history))


def _execute(given: HandedOver) -> NoReturn:
    with os.fdopen(os.memfd_create("virtstatd-configuration", 0), "wb", closefd=False) as file:
        file.write(msgspec.json.encode(given, enc_hook=str))
        os.environ[HANDED_OVER] = f"{os.getpid()}:{file.fileno()}"
    os.execv(sys.executable, [sys.executable, *_safe_path(), *sys.orig_argv[1:]])  # noqa: S606 - ourselves


def _safe_path() -> list[str]:
    """Return the option that excludes modules of the working directory, if this run has it."""
    ours = Path(virtstatd.__file__).resolve().parents[1]
    return [] if sys.flags.safe_path or ours == Path.cwd() else ["-P"]
