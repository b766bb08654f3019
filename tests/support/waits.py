"""How long others wait for an agent, and how long its loop stands still."""

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from support.agent import Agent


IDLE = """
import asyncio, sys, threading
from virtstatd.runtime.loop_lag import LoopLag
async def main():
    lag, stop = LoopLag(), asyncio.Event()
    task = asyncio.create_task(lag.run(stop))
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(lag.take(), flush=True)
    stop.set()
    await task
asyncio.run(main())
"""


def settled(
    agent: Agent, polls: Callable[[], float], what: Callable[[], object], *, within: int = 3
) -> None:
    """
    Wait until something is so; not more than a few polls may pass before.

    One poll may be under way, one brings it, and the agent's own numbers lag by one. What counts is
    how many had passed when the last look that did not find it began, however long looks take.
    """
    begun, passed = polls(), 0.0

    def looked() -> bool:
        nonlocal passed
        before = polls() - begun
        if what():
            return True
        passed = before
        return False

    agent.wait_for(looked)
    assert passed <= within


@contextmanager
def idle_loop() -> Iterator[Callable[[], float]]:
    """
    Run a loop without any work beside the agent.

    Calling what is yielded returns its longest lag since the last call: what the machine, and not
    the agent, does to a loop at this time.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    asks, answers = process.stdin, process.stdout
    assert asks
    assert answers

    def longest() -> float:
        asks.write("\n")
        asks.flush()
        return float(answers.readline())

    try:
        yield longest
    finally:
        asks.close()
        answers.close()
        process.wait(60)


PROBE = """
import json, subprocess, sys, threading, time, urllib.request
what = sys.argv[1:]
taken, begun = [], time.monotonic()
def ask():
    if what[0].startswith("http"):
        urllib.request.urlopen(what[0], timeout=300).read()
    else:
        subprocess.run(what, check=True, stdout=subprocess.DEVNULL)
def probe():
    global begun
    while True:
        begun = time.monotonic()
        ask()
        taken.append(time.monotonic() - begun)
        time.sleep(0.05)
threading.Thread(target=probe, daemon=True).start()
for line in sys.stdin:
    count = len(taken)
    late = max(0.0, time.monotonic() - begun - 0.05)  # one that is not answered counts as well
    print(json.dumps([*taken[:count], *([late] if late > 1 else [])]), flush=True)
    del taken[:count]
"""


class Waits:
    """How long answers took, in order."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = sorted(seconds)

    def __len__(self) -> int:
        return len(self.seconds)

    def __str__(self) -> str:
        shares = "  ".join(f"{each}%: {self.share(each) * 1000:.1f} ms" for each in (50, 95, 99))
        return f"{len(self)} answers  {shares}  longest: {self.seconds[-1] * 1000:.1f} ms"

    def share(self, percent: int) -> float:
        """Return how long so many percent of the answers took at most."""
        return self.seconds[(len(self.seconds) - 1) * percent // 100]


@contextmanager
def probing(*what: str) -> Iterator[Callable[[], Waits]]:
    """
    Ask for a page or run a command again and again, in a process of its own.

    Calling what is yielded returns how long the answers took since the last call.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PROBE, *what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    asks, answers = process.stdin, process.stdout
    assert asks
    assert answers

    def taken() -> Waits:
        asks.write("\n")
        asks.flush()
        return Waits(json.loads(answers.readline()))

    try:
        yield taken
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # and the command that it waits for
        process.communicate()


def slowness() -> float:
    """
    Return how many times longer than it works a process lasts on this machine, now: 1 when idle.

    What is promised in seconds is promised for a machine that has time for it.
    """
    ratios = []
    for _ in range(3):
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "sum(range(1_000_000))"], check=True)
        after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
        worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        ratios.append(seconds / worked)
    return max(1.0, statistics.median(ratios))


STALL_SECONDS = 0.1
"""How long the loop may stand still by itself."""


@contextmanager
def unstalled(agent: Agent) -> Iterator[None]:
    """
    Fail where the agent's loop stands still during a block for longer than it may.

    What the machine does to a loop without any work at the same time is not the agent's doing. One
    look in twenty may be bad: even a machine without other work has its moments.
    """
    lags: list[float] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.5):
            lags.append(agent.value("virtstatd_loop_lag_max_seconds") or 0.0)

    looking = threading.Thread(target=look, daemon=True)
    with idle_loop() as idle:
        idle()
        looking.start()
        try:
            yield
        finally:
            stop.set()
            looking.join(300)  # what it may wait for the page, and the parser's time
        assert not looking.is_alive()
        noise = idle()
    lags.sort()
    print(f"loop lag: median {lags[len(lags) // 2]:.4f} s, longest {lags[-1]:.4f} s,")
    print(f"of a loop without work in the same time: longest {noise:.4f} s")
    assert lags[-1 - len(lags) // 20] < STALL_SECONDS * slowness() + noise
