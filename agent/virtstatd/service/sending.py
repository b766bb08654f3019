"""Right side: an outlet for every sink of the configuration."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import profiles
from virtstatd.collector import Emit
from virtstatd.config.file import Config, SinkConfig
from virtstatd.errors import StartError
from virtstatd.formats.naming import metric_name
from virtstatd.pipeline.buffer import Buffer, Queue
from virtstatd.pipeline.outlet import Outlet
from virtstatd.pipeline.routes import SinkRoute, Wanted
from virtstatd.pipeline.spool.backlog import Backlog, backlogs
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.queue import Spooled
from virtstatd.serving.routes import Routes
from virtstatd.sink import Opening, Send, Sink


SPOOL_BYTES = 1 << 40
"""Limit of a spool that is only read."""

CLOSE_SECONDS = 1.0
"""Time for a sink to close; a slower one ends with the process."""


async def open_outlet(
    stack: AsyncExitStack,
    each: SinkConfig,
    config: Config,
    log: FilteringBoundLogger,
    sockets: dict[str, socket.socket],
    routes: Routes,
    *,
    spool: Path | None = None,
) -> Outlet:
    """
    Open a sink, and put an outlet with its queue in front of it; `stack` closes the sink.

    The queue is on disk where `spool` says so, or the sink's own options.
    """
    bound = log.bind(sink=each.name)
    opening = Opening(each.name, bound, sockets, routes)
    send = await stack.enter_async_context(contained(each.sink, opening))
    return Outlet(
        each.name,
        send,
        bound,
        time.monotonic,
        _queue(each, spool or spool_directory(each, config), bound, spooled=spool is not None),
        delivery="spool" if spool else each.delivery,
        trains=getattr(each.sink, "trains", None),
        catch_up_bytes_per_second=each.outlet.catch_up_bytes_per_second,
        attempt_seconds=each.outlet.attempt_seconds,
        max_age_seconds=each.max_age_seconds,
    )


def routed(each: SinkConfig, outlet: Outlet) -> Emit:
    """Return what takes batches for a sink: its outlet, or a route that leaves something out."""
    options = each.route
    profile = () if options.profile == "full" else profiles.profile(options.profile)
    wanted = Wanted(
        keep=(*profile, *options.keep),
        drop=options.drop,
        groups=options.groups,
        collectors=options.collectors,
        domains=options.domains,
        labels=options.labels,
        interval_seconds=options.interval_seconds,
    )
    return outlet.offer if wanted.everything else SinkRoute(wanted, outlet.offer, metric_name)


def _queue(each: SinkConfig, directory: Path, log: FilteringBoundLogger, *, spooled: bool) -> Queue:
    """Return the queue in front of a sink; a spool opens later, and may fail to open."""
    options = each.outlet
    if not (options.spool_bytes or spooled):
        return Buffer(options.buffer_bytes)
    spool = Spool(directory, capacity=options.spool_bytes or SPOOL_BYTES, sync=options.spool_sync)
    return Spooled(spool, log, time.monotonic, capacity=options.buffer_bytes)


def state_directory(config: Config) -> Path:
    """Return the directory for persistent state, `STATE_DIRECTORY` of systemd.exec(5)."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(config.agent.state_directory or given or "/var/lib/virtstatd")


def spool_directory(each: SinkConfig, config: Config) -> Path:
    """Return the directory of a sink's spool."""
    return spool_root(config) / each.name


def spool_root(config: Config) -> Path:
    """Return where the spools of all sinks are."""
    return state_directory(config) / "spool"


def users_of_spools(config: Config) -> set[str]:
    """Return the names of the sinks that have a spool."""
    return {each.name for each in config.sinks if each.outlet.spool_bytes}


def orphaned_spools(config: Config) -> list[Backlog]:
    """Return the spools with batches that no sink will send: it was renamed, or has none now."""
    used = users_of_spools(config)
    try:
        found = [*backlogs(spool_root(config))]
    except OSError:  # they belong to an agent of another user
        return []
    return [each for each in found if not (each.name in used or each.empty)]


@asynccontextmanager
async def contained(sink: Sink, opening: Opening) -> AsyncIterator[Send]:
    """Open a sink; a fault at opening ends the start, one at closing is only logged."""
    context = sink.open(opening)
    try:
        send = await context.__aenter__()
    except StartError as error:
        raise StartError(f"sink {opening.name}: {error}") from error
    except Exception as error:
        raise StartError(
            f"sink {opening.name}: cannot open: {type(error).__name__}: {error}"
        ) from error
    try:
        yield send
    finally:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await context.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - a sink is not our code
            opening.log.warning("sink.close_failed", reason=str(error) or type(error).__name__)


@asynccontextmanager
async def draining(
    outlets: Sequence[Outlet], seconds: float, routes: Iterable[Emit] = ()
) -> AsyncIterator[None]:
    """
    Run the outlets; on leaving drain routes and queues for at most `seconds`.

    Batches that a sink has not accepted by then are on disk or lost; its outlet counts and logs
    them.
    """
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(o.run(), name=f"outlet {o.name}") for o in outlets]
        try:
            yield
        finally:
            for route in routes:
                if isinstance(route, SinkRoute):
                    route.flush()
            for outlet in outlets:
                outlet.close()
            _, late = await asyncio.wait(running, timeout=seconds) if running else (set(), set())
            for task in late:
                task.cancel()
