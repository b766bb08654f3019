"""`python -m virtstatd_simulator`: the simulator alone."""

from __future__ import annotations

from virtstatd_simulator.command import simulate


if __name__ == "__main__":
    simulate(prog_name="virtstatd simulate")
