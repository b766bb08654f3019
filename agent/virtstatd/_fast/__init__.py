"""
Work that is done very often: in C if the library was built, in Python otherwise.

VIRTSTATD_FAST=python in the environment has it done in Python, to compare.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Final

from virtstatd._fast.plain import Fill, MakeShares, PlainKept
from virtstatd._fast.records import LoadLibvirt, MakeTake


_INTERFACE: Final = 4
"""As in `native.c`: a library of another interface was built from other sources."""


def _library() -> ModuleType | None:
    if os.environ.get("VIRTSTATD_FAST") == "python":
        return None
    try:
        library = importlib.import_module("virtstatd._fast.native")
    except ImportError:  # no compiler where it was installed, or it is made for another system
        return None
    return library if getattr(library, "INTERFACE", 0) == _INTERFACE else None


_LIBRARY = _library()

IN_C: bool = _LIBRARY is not None
"""Whether it is done in C."""

KEPT: type[PlainKept] = _LIBRARY.Kept if _LIBRARY else PlainKept
"""`PlainKept`, or what does the same in C."""

FILL: Fill | None = _LIBRARY.Fill if _LIBRARY else None
"""Fills texts in C; None where Python does."""

SHARES: MakeShares | None = _LIBRARY.Shares if _LIBRARY else None
"""Keeps shares of time in C; None where Python does."""

LIBVIRT: LoadLibvirt | None = _LIBRARY.Libvirt if _LIBRARY else None
"""Asks libvirt without the binding; None where the binding does."""

TAKE: MakeTake | None = _LIBRARY.Take if _LIBRARY else None
"""Takes numbers from libvirt's own structures; None where the binding makes dictionaries."""
