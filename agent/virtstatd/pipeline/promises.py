"""What each class of delivery promises, and the tests that break things to hold it to that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from virtstatd.sink import Delivery


@dataclass(frozen=True, slots=True)
class Promise:
    """One sentence for operators, and tests as `file::function`, relative to `tests`."""

    text: str
    tests: tuple[str, ...]


PROMISES: Final[dict[Delivery, Promise]] = {
    "latest": Promise(
        "the last complete reading if it is at most two intervals old; no history",
        ("unit/serving/test_latest.py::test_an_old_reading_disappears",),
    ),
    "memory": Promise(
        "delivered at least once, in order, while the agent lives and the batch is neither older"
        " than `max_age_seconds` nor pushed out of `buffer_bytes`; every other fate is counted",
        (
            "unit/pipeline/test_outlet.py::test_the_same_batch_is_tried_again_and_order_is_kept",
            "unit/pipeline/test_outlet.py::test_everything_accepted_is_accounted_for_at_every_moment",
            "unit/pipeline/test_outlet_policy.py::test_one_bad_series_is_found_and_lost_alone",
        ),
    ),
    "spool": Promise(
        "delivered at least once, in order, across restarts and kills of the agent, while the batch"
        " is neither older than `max_age_seconds` nor pushed out of `spool_bytes`. A power cut"
        " loses what `spool_sync` has left unsynced. While the disk fails, batches wait in"
        " memory. At most the batches under way arrive twice",
        (
            "integration/test_outlet_spool.py::test_a_destination_that_is_away_loses_nothing",
            "integration/test_outage.py::test_servers_that_are_killed_have_everything_in_the_end",
            "integration/test_spool_kill.py::test_a_killed_agent_loses_nothing_that_was_accepted",
            "unit/pipeline/spool/test_model.py::test_only_what_is_damaged_or_unsynced_is_lost",
            "unit/pipeline/spool/test_queue.py::test_a_full_disk_is_a_queue_in_memory_for_half_a_minute",
        ),
    ),
    "fire-and-forget": Promise(
        "sent at most once; no answer confirms it",
        ("contract/test_statsd.py::test_contract_without_a_server",),
    ),
}
