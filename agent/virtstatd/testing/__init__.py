"""What a sink's author needs to test it, and what the agent's own tests are made of."""

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
from virtstatd.testing.contract import BrokenContract, check_sink, opening


__all__ = [
    "HOSTILE_NAMES",
    "TAKEN_AT",
    "BrokenContract",
    "FakeClock",
    "check_sink",
    "hostile_batch",
    "make_batch",
    "make_domain",
    "make_reading",
    "make_shapes",
    "opening",
    "settle",
]
