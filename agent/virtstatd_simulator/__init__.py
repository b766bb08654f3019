"""A libvirtd stand-in with libvirt's wire protocol: for demos, scale tests and faults."""

from __future__ import annotations

from virtstatd_simulator.faults.verbs import CommandError
from virtstatd_simulator.options import Options
from virtstatd_simulator.simulator import Simulator, run, serve


__all__ = ["CommandError", "Options", "Simulator", "run", "serve"]
