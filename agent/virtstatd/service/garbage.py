"""
Python's search for garbage in cycles, kept short.

The search holds the interpreter's lock while it looks at everything that has lived for long: 0.24 s
with 2,000 guests on the page, during which nobody is answered. What was found alive by a search
that took too long is therefore left out of all later ones. Counting references frees it as before;
only a cycle among those objects would stay.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


LONG_SECONDS = 0.02
"""Of CPU time, so that a busy machine does not make a search long."""


@contextmanager
def short_searches(clock: Callable[[], float] = time.thread_time) -> Iterator[None]:
    """Leave out of later searches what one longer than `LONG_SECONDS` found alive."""
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
