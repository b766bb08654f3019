"""The daemon's worker pool: twenty workers for all jobs, five more for urgent ones."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine


Job = Callable[[], Coroutine[None, None, None] | None]


class Workers:
    """
    Runs jobs, at most `normal + urgent` at once.

    As in libvirtd an ordinary worker takes the oldest job, the others take only urgent jobs. A job
    is called; a coroutine that it returns keeps its worker busy until it ends.
    """

    def __init__(self, normal: int = 20, urgent: int = 5) -> None:
        self.idle_normal = normal
        self.idle_urgent = urgent
        self.paused = False
        self._queue: deque[tuple[Job, bool]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> int:
        """Count the jobs that run."""
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        """Count the jobs that wait for a worker."""
        return len(self._queue)

    def submit(self, job: Job, *, urgent: bool) -> None:
        """Run a job as soon as a worker is free."""
        self._queue.append((job, urgent))
        self.pump()

    def pump(self) -> None:
        """Pass waiting jobs to idle workers."""
        while self._queue and not self.paused:
            if self.idle_normal:
                job, _ = self._queue.popleft()
                self._start(job, normal=True)
            elif self.idle_urgent and any(urgent for _, urgent in self._queue):
                at = next(n for n, (_, urgent) in enumerate(self._queue) if urgent)
                job, _ = self._queue[at]
                del self._queue[at]
                self._start(job, normal=False)
            else:
                return

    def _start(self, job: Job, *, normal: bool) -> None:
        rest = job()
        if rest is None:
            return
        self._count(normal=normal, change=-1)
        task = asyncio.get_running_loop().create_task(rest, name="simulator worker")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._count(normal=normal, change=1)
            if not task.cancelled() and (error := task.exception()) is not None:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a simulator worker failed", "exception": error, "task": task}
                )
            self.pump()

        task.add_done_callback(ended)

    def _count(self, *, normal: bool, change: int) -> None:
        if normal:
            self.idle_normal += change
        else:
            self.idle_urgent += change

    async def cancel(self) -> None:
        """Drop the jobs that wait and cancel those that run."""
        self._queue.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
