"""Counters that move as a guest's do."""

import random

from hypothesis import given
from hypothesis import strategies as st

from virtstatd_simulator.guests.load import UNIT, Driver, Pattern, random_load


seconds = st.floats(0, 1e7)
patterns = st.builds(
    Pattern,
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    period_seconds=st.floats(10, 600),
    busy_seconds=st.floats(1, 10),
    offset_seconds=st.floats(0, 9),
    square=st.booleans(),
)


@given(patterns, seconds, seconds)
def test_an_integral_never_falls(pattern: Pattern, one: float, other: float):
    """More running time is never less load, and none of it is none."""
    early, late = sorted((one, other))
    assert pattern.integral(late) >= pattern.integral(early) - 1e-6
    assert abs(pattern.integral(0.0)) < 1e-9


@given(patterns, seconds, st.floats(0, 100))
def test_load_is_a_share_of_time(pattern: Pattern, start: float, length: float):
    """In any stretch of time a guest does at most `low + high` of it, at least `low`."""
    done = pattern.integral(start + length) - pattern.integral(start)
    assert pattern.low * length - 1e-5 <= done <= (pattern.low + pattern.high) * length + 1e-5


def test_steal_comes_in_storms():
    """Some guests lose a tenth of their time and more in some ten seconds, and little in most."""
    stormy = 0
    for seed in range(40):
        load = random_load(random.Random(seed))
        taken = [load.steal.integral(t + 1.0) - load.steal.integral(t) for t in range(900)]
        stormy += max(taken) > 0.1 and sorted(taken)[600] < 0.02
    assert 3 <= stormy <= 20


@given(st.integers(0, 1000), seconds)
def test_running_and_waiting_fit_into_a_second(seed: int, start: float) -> None:
    """No vCPU runs and waits for a CPU longer than time passes."""
    load = random_load(random.Random(seed))
    spent = sum(p.integral(start + 1.0) - p.integral(start) for p in (load.cpu, load.steal))
    assert spent <= 1.0 + 1e-5


@given(st.integers(0, 1000), seconds)
def test_drivers_are_whole_numbers_in_their_range(seed: int, uptime: float):
    """Every driver is an integer; the wave stays between none and one."""
    drivers = random_load(random.Random(seed)).drivers(uptime, 1, 2, 3)
    assert len(drivers) == len(Driver)
    assert all(type(number) is int and number >= 0 for number in drivers)
    assert drivers[Driver.WAVE] <= UNIT
    assert drivers[Driver.STATE :] == (1, 2, 3)
