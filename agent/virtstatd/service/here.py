"""Checks whether a well-formed configuration can work on this host, before anything opens."""

from __future__ import annotations

import asyncio
import http.client
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from virtstatd.config.file import Config, SinkConfig
from virtstatd.config.options import Fault, options
from virtstatd.errors import PortInUse, StartError
from virtstatd.runtime.worker import Worker
from virtstatd.service.sending import spool_directory


HERE_SECONDS: Final = 30.0
"""Time for the checks of all sinks together; a disk or name server that hangs takes longer."""

IN_USE: Final = "an agent listens here already, which is fine where that one takes this file"

PROBE_SECONDS: Final = 5.0
CREDENTIAL: Final = "credential:"


@dataclass(frozen=True, slots=True)
class FoundHere:
    """The reasons against a start here, and what cannot be checked from outside the service."""

    faults: list[Fault]
    notes: list[Fault]


async def found_here(
    config: Config,
    ours: Callable[[PortInUse], bool],
    *,
    outside: bool = False,
    seconds: float = HERE_SECONDS,
) -> FoundHere:
    """
    Check for each sink whether it could open here, and leave nothing behind.

    `ours` says whether the running agent listens at a port. `outside` is for a process that is not
    the service: systemd passes credentials and the state directory only to the service.
    """
    workers = [Worker(f"check {each.name}") for each in config.sinks]
    asked = [
        worker.submit(_asking(each, config))
        for worker, each in zip(workers, config.sinks, strict=True)
    ]
    for worker in workers:
        worker.close()
    if asked:
        await asyncio.wait(asked, timeout=seconds)
    found = FoundHere([], [])
    for index, (each, answer) in enumerate(zip(config.sinks, asked, strict=True)):
        if not answer.done():
            text = f"could not be checked within {seconds:g} s; see what hangs"
            found.faults.append(Fault(("sink", index), text))
        elif error := answer.exception():
            fault = _fault(index, each, error)
            if isinstance(error, PortInUse) and ours(error):
                if outside:
                    found.notes.append(Fault(fault.path, IN_USE))
            elif outside and _for_the_service(each, config, fault):
                found.notes.append(fault)
            else:
                found.faults.append(fault)
    return found


def is_virtstatd(taken: PortInUse) -> bool:
    """Return whether the listener at a port is an agent, which identifies itself."""
    host = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(taken.host, taken.host)  # noqa: S104
    connection = http.client.HTTPConnection(host, taken.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/-/healthy")
        return connection.getresponse().read(100).startswith(b"virtstatd ")
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _asking(each: SinkConfig, config: Config) -> Callable[[], None]:
    def ask() -> None:
        if each.outlet.spool_bytes:
            _check_spool(spool_directory(each, config))
        check: Callable[[], object] | None = getattr(each.sink, "check_here", None)
        if check is not None:
            check()

    return ask


def _check_spool(directory: Path) -> None:
    """Raise StartError unless a directory is writable, or can be created."""
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        fix = f"let the agent's user write in {there}, or choose another agent.state_directory"
        raise StartError(f"spool_bytes: cannot write {directory}; {fix}")


def _fault(index: int, each: SinkConfig, error: BaseException) -> Fault:
    text = str(error) or type(error).__name__
    if not isinstance(error, StartError):  # a plug-in is not our code
        text = f"cannot be checked: {type(error).__name__}: {error}"
    option, colon, rest = text.partition(": ")
    if colon and option in {*_names(each)}:
        return Fault(("sink", index, option), rest)
    return Fault(("sink", index), text)


def _names(each: SinkConfig) -> Iterator[str]:
    yield "spool_bytes"
    for option in options(type(each.sink)):
        yield option.name


def _for_the_service(each: SinkConfig, config: Config, fault: Fault) -> bool:
    """Return whether a fault is about what systemd passes only to the service."""
    option = str(fault.path[-1])
    if option == "spool_bytes":
        return not config.agent.state_directory and "STATE_DIRECTORY" not in os.environ
    given = getattr(each.sink, option, "")
    names = given.values() if isinstance(given, dict) else [given]
    return any(str(name).startswith(CREDENTIAL) for name in names)
