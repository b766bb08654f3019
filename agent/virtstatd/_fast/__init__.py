"""
Work that is done very often: in C if the library was built, in Python otherwise.

VIRTSTATD_FAST=python in the environment has it done in Python, to compare.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from virtstatd._fast.plain import PlainKept


def _library() -> ModuleType | None:
    if os.environ.get("VIRTSTATD_FAST") == "python":
        return None
    try:
        return importlib.import_module("virtstatd._fast.native")
    except ImportError:  # no compiler where it was installed, or it is made for another system
        return None


_LIBRARY = _library()

IN_C: bool = _LIBRARY is not None
"""Whether it is done in C."""

KEPT: type[PlainKept] = _LIBRARY.Kept if _LIBRARY else PlainKept
"""`PlainKept`, or what does the same in C."""
