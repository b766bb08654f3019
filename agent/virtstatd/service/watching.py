"""Looks for findings in turn, reports those that begin and end, and shows what is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd import __version__
from virtstatd.config.file import Config
from virtstatd.hypervisor.sockets import detected_uri
from virtstatd.insight.documents import Whereabouts
from virtstatd.insight.insight import Insight
from virtstatd.insight.judge import Finding
from virtstatd.pipeline.outlet import Outlet
from virtstatd.runtime.host import host_name
from virtstatd.runtime.waiting import next_beat
from virtstatd.serving.api import Api
from virtstatd.serving.routes import Routes


LOOK_SECONDS: Final = 1.0
STEP_SECONDS: Final = 0.004
"""The loop belongs to others after that long."""


class Watching:
    """
    The insight of one agent, shown by the API at the address of the table `[web]`.

    `history` is that of the run before a reload.
    """

    def __init__(
        self,
        config: Config,
        outlets: Sequence[Outlet],
        log: FilteringBoundLogger,
        routes: Routes,
        history: bytes = b"",
    ) -> None:
        self._log = log
        self._outlets = outlets
        uri = config.hypervisor.uri or detected_uri()
        me = Whereabouts(host_name(), __version__, uri)
        self.insight = Insight(me, self._failing, self._report, config.web.history_bytes)
        if history:
            self.insight.history.load(history)
        for route in Api(self.insight, config.web.viewers).routes():
            routes.add("", route)

    async def run(self, stop: asyncio.Event) -> None:
        """Look for findings until `stop`."""
        while not stop.is_set():
            await next_beat(stop, LOOK_SECONDS)
            ends = time.monotonic() + STEP_SECONDS
            for _ in self.insight.look():
                if time.monotonic() >= ends:
                    await asyncio.sleep(0)
                    ends = time.monotonic() + STEP_SECONDS

    def _failing(self) -> list[str]:
        return [outlet.name for outlet in self._outlets if outlet.failing]

    def _report(self, finding: Finding) -> None:
        document = finding.document()
        of = finding.subject
        fields = {
            "finding": document["finding"],
            "severity": document["severity"],
            "domain": of.name or None,
            "uuid": of.uuid or None,
            "device": of.device or None,
            "value": document["value"],
            "threshold": document["threshold"],
            "text": document["text"],
        }
        fields = {name: value for name, value in fields.items() if value is not None}
        if not finding.until:
            self._log.warning("finding.began", **fields, advice=document["advice"])
        else:
            self._log.info("finding.ended", **fields)
