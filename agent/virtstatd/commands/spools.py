"""`virtstatd spool`: what waits on disk, and what to do with it when its sink is no more."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from virtstatd.commands.progress import Progress
from virtstatd.config.file import Config
from virtstatd.errors import StartError
from virtstatd.pipeline.outlet import Outlet
from virtstatd.pipeline.spool.backlog import Backlog, backlogs
from virtstatd.pipeline.spool.files import SpoolFiles
from virtstatd.service.sending import draining, open_outlet, spool_root, users_of_spools
from virtstatd.serving.routes import Routes


TURN_SECONDS = 0.2


def listed(config: Config) -> Iterator[str]:
    """Yield a line for every spool; raises StartError where this user may not look."""
    used = users_of_spools(config)
    for each in _all(config):
        whose = "" if each.name in used else ", of no sink that is configured"
        yield f"{each.name}: {described(each)}{whose}"


def described(backlog: Backlog) -> str:
    """Return in words what waits in a spool."""
    if backlog.waiting is None:
        return f"no checkpoint that can be read, {backlog.disk_bytes} bytes on disk"
    waiting = backlog.waiting
    return (
        f"{waiting.batches} batches of {waiting.samples} samples wait,"
        f" {backlog.disk_bytes} bytes on disk"
    )


def removed(config: Config, name: str) -> str:
    """Remove a spool with all that waits in it, and return what that was."""
    backlog = _found(config, name)
    files = SpoolFiles()
    lock = _locked(files, backlog.directory)
    try:
        shutil.rmtree(backlog.directory)
    finally:
        files.close(lock)
    return described(backlog)


async def drained(
    config: Config,
    name: str,
    to: str,
    seconds: float,
    log: FilteringBoundLogger,
    progress: Progress,
) -> Outlet:
    """Send what waits in a spool through a sink of the configuration, and return its outlet."""
    backlog = _found(config, name)
    sink = next((each for each in config.sinks if each.name == to), None)
    if sink is None:
        raise StartError(f"no sink {to!r} is configured; name another with --to")
    if sink.delivery not in ("memory", "spool"):
        raise StartError(
            f"sink {to!r} is of class {sink.delivery}, which takes nothing of the past"
        )
    files = SpoolFiles()
    files.close(_locked(files, backlog.directory))
    async with AsyncExitStack() as stack:
        outlet = await open_outlet(stack, sink, config, log, {}, Routes(), spool=backlog.directory)
        async with draining([outlet], 1.0):
            until = time.monotonic() + seconds
            # a person waits, and nothing else runs
            while time.monotonic() < until and not _over(outlet):
                sent, left = outlet.delivered.batches, outlet.waiting.batches
                progress.say(f"{sent} batches sent, {left} wait")
                await asyncio.sleep(TURN_SECONDS)
    progress.clear()
    return outlet


def _over(outlet: Outlet) -> bool:
    return bool(outlet.queue.recovered.batches) and not outlet.waiting.batches


def _all(config: Config) -> list[Backlog]:
    root = spool_root(config)
    try:
        return [*backlogs(root)]
    except OSError as error:
        raise StartError(f"cannot read {root}: {error.strerror}; run this as root") from error


def _found(config: Config, name: str) -> Backlog:
    for each in _all(config):
        if each.name == name:
            return each
    raise StartError(f"there is no spool {name!r} in {spool_root(config)}")


def _locked(files: SpoolFiles, directory: Path) -> int:
    try:
        return files.lock(directory)
    except BlockingIOError as error:
        raise StartError(f"an agent uses {directory}; stop it first") from error
