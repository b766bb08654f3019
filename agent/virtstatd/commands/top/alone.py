"""The agent's own collectors within `top`, where no agent runs: read only, nothing is sent."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Future
from typing import Any, Final
from urllib.parse import urlencode

import uvloop
from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.collector import Up
from virtstatd.commands.api import ApiError
from virtstatd.config.file import Config
from virtstatd.errors import StartError
from virtstatd.hypervisor.loop import events_on
from virtstatd.service.collecting import collecting
from virtstatd.service.passing import passing_on
from virtstatd.service.watching import Watching
from virtstatd.serving.api import Api
from virtstatd.serving.http import Request
from virtstatd.serving.routes import Route, found


ANSWER_SECONDS: Final = 10.0
START_SECONDS: Final = 30.0
ENDING_SECONDS: Final = 5.0
ROUND_SECONDS: Final = 1.0
"""Between two rounds, from which rates are computed."""


class Alone:
    """
    Answers as an agent's API does, from collectors on a thread with a loop of its own.

    With `once` each collector runs twice, so that there are rates, and then no more.
    """

    where = "alone, no agent"

    def __init__(self, config: Config, log: FilteringBoundLogger, *, once: bool = False) -> None:
        self._config = config
        self._log = log
        self._once = once
        self._routes: list[Route] = []
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="collectors", daemon=True)
        self._thread.start()

    def document(self, path: str, **query: object) -> dict[str, Any]:
        """Return a document; raises ApiError."""
        asked = urlencode({key: value for key, value in query.items() if value not in ("", None)})
        request = Request("GET", f"/api/v1/{path}", {}, keep=True, query=asked)
        try:
            loop = self._ready.result(START_SECONDS)
            answer = asyncio.run_coroutine_threadsafe(self._answer(request), loop)
            document = answer.result(ANSWER_SECONDS)
        except (StartError, TimeoutError) as error:
            raise ApiError(str(error) or "the collectors do not answer in time") from error
        if "error" in document:
            raise ApiError(str(document["error"]))
        return document

    def close(self) -> None:
        """End the collectors; a call to libvirt that hangs ends with the process."""
        if self._ready.done() and not self._ready.exception():
            self._ready.result().call_soon_threadsafe(self._stop.set)
        self._thread.join(ENDING_SECONDS)

    async def _answer(self, request: Request) -> dict[str, Any]:
        route = found(self._routes, request.path)
        if route is None:
            return {"error": f"{request.path} is not known"}
        response = await route.respond(request)
        if not isinstance(response.body, tuple):
            return {"error": f"{request.path} is no document"}
        document: dict[str, Any] = json.loads(b"".join(response.body))
        return document

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._collect())
        except Exception as error:  # noqa: BLE001 - raised where a document is requested
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _collect(self) -> None:
        loop, stop = asyncio.get_running_loop(), self._stop
        events_on(loop)
        watching = Watching(self._config, (), self._log, ())
        self._routes += Api(watching.insight, self._config.web.viewers).routes()
        emit = passing_on(self._config, [watching.insight.put], self._log).emit
        up = Up(up=self._once)
        async with (
            collecting(self._config, catalogs.shipped(), emit, self._log, up=up) as left,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(watching.run(stop), name="watching")
            if self._once:
                await left.once()
                await asyncio.sleep(ROUND_SECONDS)
                await left.once()
            else:
                left.start(tasks, up, stop)
            self._ready.set_result(loop)
            await stop.wait()
