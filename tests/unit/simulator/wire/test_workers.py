"""The worker pool: which jobs run and which wait."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial

from virtstatd_simulator.wire.workers import Workers


class Jobs:
    """Jobs that run until they are released, by name."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    def job(self, name: str) -> Callable[[], Coroutine[None, None, None]]:
        """Make a job."""

        async def run() -> None:
            await self.gates[name].wait()

        def start() -> Coroutine[None, None, None]:
            self.started.append(name)
            self.gates[name] = asyncio.Event()
            return run()

        return start


async def turn() -> None:
    """Let tasks and their callbacks run."""
    for _ in range(4):
        await asyncio.sleep(0)


async def test_urgent_jobs_have_workers_of_their_own():
    """With every ordinary worker busy urgent jobs run and others wait; the oldest goes first."""
    workers, jobs = Workers(normal=2, urgent=1), Jobs()
    for name in ("a", "b", "c"):
        workers.submit(jobs.job(name), urgent=False)
    for name in ("U", "V"):
        workers.submit(jobs.job(name), urgent=True)
    assert jobs.started == ["a", "b", "U"]
    assert (workers.busy, workers.waiting) == (3, 2)
    jobs.gates["a"].set()
    await turn()
    assert jobs.started == ["a", "b", "U", "c"]  # an ordinary worker takes what is oldest
    jobs.gates["U"].set()
    await turn()
    assert jobs.started == ["a", "b", "U", "c", "V"]
    await workers.cancel()
    assert (workers.busy, workers.waiting) == (0, 0)
    assert (workers.idle_normal, workers.idle_urgent) == (2, 1)


async def test_what_is_answered_at_once_takes_no_worker():
    """A job without a rest to await is done when it returns."""
    workers, done = Workers(normal=1, urgent=0), list[int]()
    for number in range(100):
        workers.submit(partial(done.append, number), urgent=False)
    assert done == list(range(100))
    assert (workers.busy, workers.idle_normal) == (0, 1)


async def test_a_paused_pool_keeps_what_comes():
    """Paused, jobs queue; pumped, they run in their order."""
    workers, done = Workers(), list[int]()
    workers.paused = True
    for number in range(3):
        workers.submit(partial(done.append, number), urgent=number == 2)
    assert (done, workers.waiting) == ([], 3)
    workers.paused = False
    workers.pump()
    assert done == [0, 1, 2]
