"""
Ending, and beginning anew with a changed file, in such a way that the agent is never worse off.

A file that is wrong, or that cannot work here, is refused while the agent runs on. One that was
accepted takes effect by executing the program again in the same process. Should that run fail to
start nevertheless, the configuration before it, which was handed over, runs again.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, NoReturn

from structlog.typing import FilteringBoundLogger

import virtstatd
from virtstatd.config.file import Loaded
from virtstatd.errors import ConfigError, PortInUse
from virtstatd.runtime.worker import Worker
from virtstatd.sending.address import FIRST_INHERITED
from virtstatd.service.here import HERE_SECONDS, found_here
from virtstatd.service.notify import Notify
from virtstatd.service.signals import Signals


PREVIOUS: Final = "VIRTSTATD_PREVIOUS"
"""The process and the descriptor of what is handed over to the next run."""

HIGH: Final = 100
"""Descriptors from here on are in nobody's way while low ones get their meaning."""


class Ending(Enum):
    """Why the agent ended: it was told to, or it begins anew with a changed configuration."""

    STOPPED = "stopped"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True)
class Ended:
    """How the agent ended, and the listening sockets that its next run takes over, by sink."""

    why: Ending
    sockets: Mapping[str, int]


class Control:
    """What signals do to a running agent; `stop` is set when it has to end, `why` says why."""

    def __init__(
        self, running: Loaded, signals: Signals, log: FilteringBoundLogger, notify: Notify
    ) -> None:
        self.stop = asyncio.Event()
        self.why = Ending.STOPPED
        self.rejected = False
        self.sockets: dict[str, socket.socket] = {}
        self.kept: dict[str, int] = {}
        self._running = running
        self._signals = signals
        self._log = log
        self._notify = notify
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        signals.listen(lambda: loop.call_soon_threadsafe(self._look))
        self._look()

    async def run(self) -> None:
        """Look at the file after each SIGHUP, until one is accepted and `stop` is set."""
        while not self.stop.is_set():
            await self._asked.wait()
            self._asked.clear()
            self._notify.reloading()
            faults = await self._faults()
            if faults:
                self.rejected = True
                self._log.error("config.rejected", faults=faults)
                self._notify.ready()
            elif not self.stop.is_set():
                self.why = Ending.RELOAD
                self.stop.set()

    def _look(self) -> None:
        """Act on what has come: an end goes before a reload, also before one that drains."""
        if self._signals.ending:
            self.why = Ending.STOPPED
            self._notify.stopping()
            self.stop.set()
        elif self._signals.reload and not self.stop.is_set():
            self._signals.reload = False
            self._asked.set()

    async def _faults(self) -> list[str]:
        """Return what stands against the file as it is now; nothing here blocks the loop."""
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
        for each in new.config.sinks:
            if each.name in self.sockets and before.get(each.name) == each.sink:
                self.kept[each.name] = os.dup(self.sockets[each.name].fileno())
        return []

    def _listens_at(self, taken: PortInUse) -> bool:
        return taken.port in {sock.getsockname()[1] for sock in self.sockets.values()}


@dataclass(frozen=True, slots=True)
class Previous:
    """The configuration of the run before; `again` says that it is to run, whatever the file is."""

    path: Path | None
    text: str
    again: bool


def handed_over(environ: MutableMapping[str, str] = os.environ) -> Previous | None:
    """Take what the run before has handed over, None where this one is the first."""
    process, _, number = environ.pop(PREVIOUS, "").partition(":")
    if process != str(os.getpid()):
        return None
    with suppress(OSError, ValueError, KeyError), os.fdopen(int(number), "rb") as file:
        file.seek(0)
        given = json.load(file)
        return Previous(given["path"] and Path(given["path"]), given["text"], given["again"])
    return None


def begin_anew(running: Loaded, sockets: Mapping[str, int]) -> NoReturn:
    """
    Execute the same command in this process; `running` is what it falls back on.

    Listening sockets are handed on as sd_listen_fds(3) has it. Raises OSError.
    """
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH) for fd in sockets.values()]
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        # those that this run was given would go on listening, with nobody to answer
        with suppress(ValueError):
            os.closerange(FIRST_INHERITED, FIRST_INHERITED + int(os.environ["LISTEN_FDS"]))
    for place, fd in enumerate(high, FIRST_INHERITED):
        os.dup2(fd, place)
    os.environ |= {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(high)),
        "LISTEN_FDNAMES": ":".join(sockets),
    }
    _execute(Previous(running.path, running.text, again=False))


def restore(previous: Previous) -> NoReturn:
    """Execute the same command with the configuration before, on the sockets handed to this run."""
    _execute(Previous(previous.path, previous.text, again=True))


def _execute(previous: Previous) -> NoReturn:
    given = {
        "path": previous.path and str(previous.path),
        "text": previous.text,
        "again": previous.again,
    }
    with os.fdopen(os.memfd_create("virtstatd-configuration", 0), "wb", closefd=False) as file:
        file.write(json.dumps(given).encode())
        os.environ[PREVIOUS] = f"{os.getpid()}:{file.fileno()}"
    os.execv(sys.executable, [sys.executable, *_safe_path(), *sys.orig_argv[1:]])  # noqa: S606 - ourselves


def _safe_path() -> list[str]:
    """Return the option that keeps modules of the working directory out, where none is ours."""
    ours = Path(virtstatd.__file__).resolve().parents[1]
    return [] if sys.flags.safe_path or ours == Path.cwd() else ["-P"]
