"""
Compare the library in C with the code in Python on random input, under the sanitizers.

    python -m support.fuzz_native EXAMPLES

A process of its own, with libasan loaded before anything else. The first fault ends it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.compared import (
    FILL_CASES,
    KEPT_CASES,
    SHARES_CASES,
    compare_fill,
    compare_kept,
    compare_shares,
)
from support.native import SANITIZED, native
from support.structures import TAKE_CASES, compare_take


AT_ONCE = 500
"""Examples of one run of hypothesis, which remembers them all."""


def run(case: st.SearchStrategy, compare: Callable[..., None], examples: int) -> int:
    """Compare at least so many inputs; return how many there were."""
    library, count = native(*SANITIZED), 0

    @settings(
        max_examples=AT_ONCE,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case)
    def each(drawn: object) -> None:
        nonlocal count
        count += 1
        compare(library, drawn)

    while count < examples:
        each()
    return count


if __name__ == "__main__":
    print(f"kept files: {run(KEPT_CASES, compare_kept, int(sys.argv[1]))} inputs")
    print(f"filled texts: {run(FILL_CASES, compare_fill, int(sys.argv[1]))} inputs")
    print(f"shares: {run(SHARES_CASES, compare_shares, int(sys.argv[1]))} inputs")
    print(f"records: {run(TAKE_CASES, compare_take, int(sys.argv[1]))} inputs")
