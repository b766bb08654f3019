"""One poll of everything, printed: for a look, a script, or a bug report."""

from __future__ import annotations

import asyncio
import time
from typing import BinaryIO

from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.config.file import Config
from virtstatd.formats.json_lines import Lines
from virtstatd.hypervisor.loop import events_on
from virtstatd.model import Batch
from virtstatd.service.collecting import asking
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Pages


async def poll_once(config: Config, form: str, out: BinaryIO, log: FilteringBoundLogger) -> None:
    """
    Ask for every group of every domain and write it as `form`, "prometheus" or "jsonl".

    Raises `Disconnected` where libvirt cannot be reached.
    """
    events_on(asyncio.get_running_loop())
    batches: list[Batch] = []
    async with asking(config, catalogs.load(), batches.append, log) as ask:
        await ask.poller.once()
        stop = asyncio.Event()
        await ask.reader.read_all(stop)
        await ask.reader.tune(stop, len(ask.inventory))
        ask.reader.send()
        if ask.cpu_stats:
            await ask.cpu_stats.read_all(stop)
    if form == "jsonl":
        lines = Lines()
        for batch in batches:
            out.writelines(lines.pieces(batch))
        return
    latest = Latest(time.monotonic)
    for batch in batches:
        latest.put(batch)
    page = await Pages(latest, log).get(openmetrics=False)
    out.writelines(page.plain())
