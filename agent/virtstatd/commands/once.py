"""Run every collector once and print the numbers: for a person, a script, or a bug report."""

from __future__ import annotations

import asyncio
import time
from typing import BinaryIO

from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.collector import Up
from virtstatd.config.file import Config
from virtstatd.formats.json_lines import Lines
from virtstatd.hypervisor.loop import events_on
from virtstatd.model import Batch
from virtstatd.service.collecting import collecting
from virtstatd.service.passing import passing_on
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Pages


async def ask_once(
    config: Config, form: str, out: BinaryIO, log: FilteringBoundLogger
) -> dict[str, list[str]]:
    """
    Run every collector once and write the numbers as `form`, "prometheus" or "jsonl".

    Returns the collectors that apply here and got no answer at all, with the reasons. Raises
    `StartError` if a collector of another package cannot work.
    """
    events_on(asyncio.get_running_loop())
    batches: list[Batch] = []
    emit = passing_on(config, [batches.append], log).emit
    async with collecting(config, catalogs.shipped(), emit, log, up=Up(up=True)) as left:
        outcomes = await left.once()
    if form == "jsonl":
        lines = Lines()
        for batch in batches:
            out.writelines(lines.pieces(batch))
    else:
        latest = Latest(time.monotonic, wall=lambda: 0)  # what was asked for is shown, however old
        for batch in batches:
            latest.put(batch)
        out.writelines(await Pages(latest, log).parts(openmetrics=False))
    failed: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        if outcome.answered is False:
            failed.setdefault(outcome.reason, []).append(name)
    return failed
