"""What authors of sinks and collectors need to test them; the agent's tests are made of it too."""

from virtstatd.testing.batches import (
    HOSTILE_NAMES,
    TAKEN_AT,
    hostile_batch,
    make_batch,
    make_domain,
    make_reading,
    make_shapes,
)
from virtstatd.testing.clock import FakeClock, settle
from virtstatd.testing.collecting import check_collector, given
from virtstatd.testing.contract import BrokenContract, check_sink, opening


__all__ = [
    "HOSTILE_NAMES",
    "TAKEN_AT",
    "BrokenContract",
    "FakeClock",
    "check_collector",
    "check_sink",
    "given",
    "hostile_batch",
    "make_batch",
    "make_domain",
    "make_reading",
    "make_shapes",
    "opening",
    "settle",
]
