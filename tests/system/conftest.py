"""Makes the machine known to the tests of this directory."""

from system.support.service import host, machine


__all__ = ["host", "machine"]
