"""Helpers to test sinks and collectors: contracts, batches, a clock; the agent's tests use them."""

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
