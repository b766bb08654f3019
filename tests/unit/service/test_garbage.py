"""Python's search for garbage."""

import gc
import weakref

from virtstatd.service.garbage import LONG_SECONDS, short_searches


class Node:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_what_a_long_search_found_alive_is_left_out_of_later_ones():
    """After a long search there is little left to look at; new garbage is found as before."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += step
        return now

    gc.unfreeze()  # what the run has left out
    with short_searches(clock):
        step = LONG_SECONDS / 2
        gc.collect()
        assert gc.get_freeze_count() == 0
        step = LONG_SECONDS * 2
        gc.collect()
        assert gc.get_freeze_count() > 1000
        assert len(gc.get_objects()) < gc.get_freeze_count() / 10
        garbage = weakref.ref(Node())
        gc.collect()
        assert garbage() is None
    assert gc.get_freeze_count() == 0
