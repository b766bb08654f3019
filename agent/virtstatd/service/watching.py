"""Looks for findings in turn, reports those that begin and end, and shows what is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec
from structlog.typing import FilteringBoundLogger

from virtstatd import __version__
from virtstatd.catalog import shipped
from virtstatd.collector import Emit
from virtstatd.config.file import Config
from virtstatd.config.tables import RouteOptions
from virtstatd.hypervisor.sockets import detected_uri
from virtstatd.insight.documents import Whereabouts
from virtstatd.insight.insight import Insight
from virtstatd.insight.judge import Finding
from virtstatd.insight.records import record_of, record_of_event
from virtstatd.model import Happening
from virtstatd.pipeline.outlet import Outlet
from virtstatd.runtime.host import host_name
from virtstatd.runtime.waiting import next_beat
from virtstatd.service.collecting import Collecting
from virtstatd.service.finding_log import FindingLog
from virtstatd.service.sending import routed
from virtstatd.service.web import Web
from virtstatd.serving.api import Api


LOOK_SECONDS: Final = 1.0
STEP_SECONDS: Final = 0.004
"""The loop belongs to others after that long."""


def watching_over(
    config: Config,
    outlets: Sequence[Outlet],
    log: FilteringBoundLogger,
    web: Web,
    history: bytes = b"",
) -> Watching | None:
    """
    Return what looks for findings, None where nothing shows them and no sink takes them.

    `history` is that of the run before a reload.
    """
    records = record_takers(config, outlets)
    if not (web.shows or records):
        return None
    watching = Watching(config, outlets, log, records)
    if web.shows:
        if history:
            watching.insight.history.load(history)
        for route in Api(watching.insight, config.web.viewers).routes():
            web.routes.add("", route)
    return watching


def record_takers(config: Config, outlets: Sequence[Outlet]) -> list[Emit]:
    """Return what takes findings for each sink that has room for texts, at once in any case."""
    return [
        routed(msgspec.structs.replace(each, route=_at_once(each.route)), outlet)
        for each, outlet in zip(config.sinks, outlets, strict=True)
        if getattr(each.sink, "records", False)
    ]


def _at_once(route: RouteOptions) -> RouteOptions:
    return msgspec.structs.replace(route, interval_seconds=0)


class Watching:
    """The insight of one agent; findings go to the log, and with events to `records`."""

    def __init__(
        self,
        config: Config,
        outlets: Sequence[Outlet],
        log: FilteringBoundLogger,
        records: Sequence[Emit],
    ) -> None:
        self._findings = FindingLog(log)
        self._records = records
        self._outlets = outlets
        uri = config.hypervisor.uri or detected_uri()
        me = Whereabouts(host_name(), __version__, uri)
        self.insight = Insight(me, self._failing, self._report, config.web.history_bytes)

    def begin(self, tasks: asyncio.TaskGroup, left: Collecting, stop: asyncio.Event) -> None:
        """Take the events of guests, and look for findings in a task."""
        left.on_happening(self.happened)
        tasks.create_task(self.run(stop), name="watching")

    async def run(self, stop: asyncio.Event) -> None:
        """Look for findings until `stop`."""
        while not stop.is_set():
            await next_beat(stop, LOOK_SECONDS)
            self._findings.look()
            ends = time.monotonic() + STEP_SECONDS
            for _ in self.insight.look():
                if time.monotonic() >= ends:
                    await asyncio.sleep(0)
                    ends = time.monotonic() + STEP_SECONDS

    def _failing(self) -> list[str]:
        return [outlet.name for outlet in self._outlets if outlet.failing]

    def happened(self, happening: Happening) -> None:
        """Keep an event, and pass it to the sinks that take records."""
        self.insight.happened(happening)
        if self._records:
            record = record_of_event(happening, shipped())
            for take in self._records:
                take(record)

    def _report(self, finding: Finding) -> None:
        if self._records:
            record = record_of(finding, shipped())
            for take in self._records:
                take(record)
        self._findings.report(finding)
