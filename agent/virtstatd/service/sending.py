"""The side that sends: an outlet for every sink that the configuration names."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from virtstatd.config.file import Config, SinkConfig
from virtstatd.errors import StartError
from virtstatd.pipeline.buffer import Buffer, Queue
from virtstatd.pipeline.outlet import Outlet
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.queue import Spooled
from virtstatd.sink import Opening, Send, Sink


CLOSE_SECONDS = 1.0
"""What a sink gets to close; what takes longer ends with the process."""


async def open_outlet(
    stack: AsyncExitStack,
    each: SinkConfig,
    config: Config,
    log: FilteringBoundLogger,
    sockets: dict[str, socket.socket],
) -> Outlet:
    """Open a sink, and put an outlet with its queue in front of it; `stack` closes the sink."""
    bound = log.bind(sink=each.name)
    opening = Opening(each.name, bound, sockets)
    send = await stack.enter_async_context(contained(each.sink, opening))
    return Outlet(
        each.name,
        send,
        bound,
        time.monotonic,
        _queue(each, spool_directory(each, config), bound),
        delivery=each.delivery,
        trains=getattr(each.sink, "trains", None),
        catch_up_bytes_per_second=each.outlet.catch_up_bytes_per_second,
        attempt_seconds=each.outlet.attempt_seconds,
        max_age_seconds=each.max_age_seconds,
    )


def _queue(each: SinkConfig, directory: Path, log: FilteringBoundLogger) -> Queue:
    """Return what waits in front of a sink; a spool opens by itself, and may fail to."""
    options = each.outlet
    if not options.spool_bytes:
        return Buffer(options.buffer_bytes)
    spool = Spool(directory, capacity=options.spool_bytes, sync=options.spool_sync)
    return Spooled(spool, log, time.monotonic, capacity=options.buffer_bytes)


def state_directory(config: Config) -> Path:
    """Return where the agent keeps what is to outlive it, `STATE_DIRECTORY` of systemd.exec(5)."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(config.agent.state_directory or given or "/var/lib/virtstatd")


def spool_directory(each: SinkConfig, config: Config) -> Path:
    """Return where the spool of a sink is."""
    return state_directory(config) / "spool" / each.name


@asynccontextmanager
async def contained(sink: Sink, opening: Opening) -> AsyncIterator[Send]:
    """Open a sink whose faults at opening end the start, and at closing nothing at all."""
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
async def draining(outlets: Sequence[Outlet], seconds: float) -> AsyncIterator[None]:
    """
    Run the outlets; on leaving let what they hold flow out, at most `seconds`.

    What a sink has not taken by then is on disk or lost, which its outlet counts and logs.
    """
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(o.run(), name=f"outlet {o.name}") for o in outlets]
        try:
            yield
        finally:
            for outlet in outlets:
                outlet.close()
            _, late = await asyncio.wait(running, timeout=seconds) if running else (set(), set())
            for task in late:
                task.cancel()
