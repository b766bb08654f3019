"""A libvirtd stand-in that speaks libvirt's wire protocol: for demos, scale tests and faults."""

from __future__ import annotations

from virtstatd.simulator.control import CommandError
from virtstatd.simulator.options import Options
from virtstatd.simulator.simulator import Simulator, run, serve


__all__ = ["CommandError", "Options", "Simulator", "run", "serve"]
