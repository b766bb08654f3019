"""What is promised is held by something."""

from pathlib import Path
from typing import get_args

import pytest

from virtstatd.config.file import parse_config
from virtstatd.errors import ConfigError
from virtstatd.pipeline.promises import PROMISES
from virtstatd.sink import Delivery


TESTS = Path(__file__).parents[1]


def test_every_promise_names_tests_that_exist():
    """Each class of delivery has a promise, and each promise a test that holds it."""
    assert set(PROMISES) == set(get_args(Delivery))
    for promise in PROMISES.values():
        assert promise.tests
        for test in promise.tests:
            file, name = test.split("::")
            assert f"def {name}(" in (TESTS / file).read_text(), test


def test_a_sink_with_a_spool_is_of_another_class():
    """A spool makes memory spool, and lets batches wait for a day unless the file says else."""
    text = '[[sink]]\ntype = "null"\n'
    plain = parse_config(text, "f").sinks[0]
    spooled = parse_config(text + "spool_bytes = 268435456\n", "f").sinks[0]
    chosen = parse_config(text + "spool_bytes = 268435456\nmax_age_seconds = 7\n", "f").sinks[0]

    assert (plain.delivery, plain.max_age_seconds) == ("memory", 900)
    assert (spooled.delivery, spooled.max_age_seconds) == ("spool", 86400)
    assert chosen.max_age_seconds == 7


def test_the_window_of_a_receiver_bounds_the_wait():
    """What remote write's receivers refuse as too old is not kept for longer."""
    text = '[[sink]]\ntype = "remote_write"\nurl = "http://127.0.0.1:1/"\nspool_bytes = 8388608\n'

    assert parse_config(text, "f").sinks[0].max_age_seconds == 3600


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('type = "prometheus"\nspool_bytes = 8388608', "has no use for a spool"),
        ('type = "null"\nspool_bytes = 1000', "must be 0 or at least 1048576"),
        ('type = "null"\nspool_sync = "often"', "spool_sync"),
    ],
)
def test_spools_that_make_no_sense(text: str, fault: str):
    """A spool for what keeps no history, or too small for a batch, is a fault with its line."""
    with pytest.raises(ConfigError) as raised:
        parse_config(f"[[sink]]\n{text}\n", "f")
    assert raised.value.faults[0].startswith("f:3: sink[0].spool_")
    assert fault in raised.value.faults[0]
