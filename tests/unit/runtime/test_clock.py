"""Clocks that are set, and hosts that sleep."""

from dataclasses import dataclass

import pytest
import structlog
from structlog.testing import capture_logs

from virtstatd.runtime.clock import Clocks


@dataclass
class Times:
    """Three clocks, in the test's hands; every look takes some microseconds."""

    wall: float = 1e9
    boot: float = 5000.0
    monotonic: float = 4000.0
    held_up: float = 0.0

    def read_boot(self) -> float:
        """Return the clock that runs on in a sleep."""
        self.boot += 1e-6 + self.held_up
        return self.boot

    def clocks(self, slept: list[int]) -> Clocks:
        """Return what watches them."""
        return Clocks(
            structlog.get_logger(),
            lambda: slept.append(1),
            lambda: self.wall,
            self.read_boot,
            lambda: self.monotonic,
        )

    def go(self, seconds: float, *, asleep: float = 0.0, step: float = 0.0) -> None:
        """Let time pass."""
        self.monotonic += seconds
        self.boot += seconds + asleep
        self.wall += seconds + asleep + step


@pytest.mark.parametrize("step", [3600.0, -3600.0, 5.0, -5.0])
def test_a_step_is_logged_once_and_counted(step: float):
    """However far and in whichever direction the wall clock is set, once per setting."""
    times, slept = Times(), list[int]()
    clocks = times.clocks(slept)
    with capture_logs() as logs:
        for each in (0.0, step, 0.0, 0.0):
            times.go(1.0, step=each)
            clocks.look()

    assert clocks.steps == 1
    assert [(each["event"], each["seconds"]) for each in logs] == [("clock.stepped", step)]
    assert not slept


def test_a_clock_that_is_kept_right_or_drifts_is_no_step():
    """Half a second at once, and much more little by little, is nobody's fault."""
    times, slept = Times(), list[int]()
    clocks = times.clocks(slept)
    times.go(1.0, step=0.5)
    clocks.look()
    for _ in range(1000):
        times.go(1.0, step=-0.005)
        clocks.look()

    assert clocks.steps == 0


def test_an_hours_sleep_is_noticed_and_no_step():
    """The wall clock ran on as it should; what was read before the sleep is read anew."""
    times, slept = Times(), list[int]()
    clocks = times.clocks(slept)
    with capture_logs() as logs:
        times.go(0.5, asleep=3600.0)
        clocks.look()
        times.go(1.0)
        clocks.look()

    assert clocks.steps == 0
    assert [(each["event"], each["seconds"]) for each in logs] == [("host.slept", 3600.0)]
    assert slept == [1]


def test_a_process_that_is_held_up_between_two_looks_takes_no_clock_for_wrong():
    """Clocks read seconds apart, as after SIGSTOP in between, are looked at again later."""
    times, slept = Times(), list[int]()
    clocks = times.clocks(slept)
    times.held_up = 30.0
    clocks.look()
    times.held_up = 0.0
    times.wall += 60.0  # what passed in the meantime, on all clocks
    times.monotonic += 60.0
    times.go(1.0)
    clocks.look()

    assert clocks.steps == 0
    assert not slept
