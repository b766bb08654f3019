"""
Short runs of Python's cyclic garbage collector.

A full collection holds the interpreter's lock while it examines all old objects: 0.24 s with 2,000
guests on the page, during which no request is answered. Objects that survive a collection that took
too long are therefore excluded from all later ones. Reference counting still frees them; only a
cycle among those objects would stay.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


LONG_SECONDS = 0.02
"""In CPU time, so that a collection does not count as long because the machine is busy."""


@contextmanager
def short_searches(clock: Callable[[], float] = time.thread_time) -> Iterator[None]:
    """Exclude objects that survive a collection longer than `LONG_SECONDS` from later ones."""
    begun = 0.0

    def searched(phase: str, details: Mapping[str, int]) -> None:
        nonlocal begun
        if details["generation"] < 2:  # noqa: PLR2004 - the oldest of three
            return
        if phase == "start":  # the same thread begins and ends it, and no other one meanwhile
            begun = clock()
        elif clock() - begun > LONG_SECONDS:
            gc.freeze()

    gc.callbacks.append(searched)
    try:
        yield
    finally:
        gc.callbacks.remove(searched)
        gc.unfreeze()
