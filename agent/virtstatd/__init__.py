"""virtstatd: the statistics daemon of a libvirt host."""

from importlib.metadata import version


__version__ = version("virtstatd")
