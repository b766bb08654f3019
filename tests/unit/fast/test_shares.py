"""Shares of time: the library in C counts what the code in Python does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from support.compared import SHARES_CASES, SharesCase, compare_shares
from support.native import native
from virtstatd.collect.kernel.storms import FLOATS, Shares


@given(SHARES_CASES)
def test_both_count_the_same_shares(case: SharesCase):
    """Buckets, sums, counts and peaks are the same numbers, also of what grew back or by far."""
    compare_shares(native(), case)


def test_the_highest_share_is_kept_for_its_time():
    """A peak lasts as long as it should, and then the next highest is shown, over many readings."""
    both = Shares(60.0), native().Shares(FLOATS, 60.0)
    spans, peaks = (0,), []
    for second in range(500):
        before, spans = spans, (spans[0] + (second * 7919) % 1_000_003 * 900,)
        for each in both:
            each.observe(spans, before, 10**9, float(second))
        peaks.append([each.peak() for each in both])
    assert all(plain == fast for plain, fast in peaks)
    assert len({fast for _, fast in peaks}) > 10


@pytest.mark.parametrize(
    "wrong",
    [
        ((1,), (), 1, 0.0),
        ((1,), (0,), 0, 0.0),
        ((1,), (0,), -1, 0.0),
        ((None,), (0,), 1, 0.0),
    ],
)
def test_what_is_no_share(wrong: Any):
    """Without time, or with other spans than before, nothing is counted."""
    for each in (Shares(60.0), native().Shares(FLOATS, 60.0)):
        with pytest.raises((ValueError, TypeError)):
            each.observe(*wrong)
        assert each.histogram()[-1] == 0


@pytest.mark.parametrize("wrong", [((), 1.0), ((None,), 1.0), ([0.5], 1.0), ((0.5,), "1")])
def test_what_are_no_bounds(wrong: Any):
    """Without bounds that are numbers there is no histogram."""
    with pytest.raises((ValueError, TypeError)):
        native().Shares(*wrong)
