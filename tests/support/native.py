"""The agent's library in C, compiled for the tests that compare it with the code in Python."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from functools import cache
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType


CHECKOUT = Path(__file__).parents[2]
NAME = "virtstatd._fast.native"
STRICT = ("-Werror",)
SANITIZED = (
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"),
    "-U_FORTIFY_SOURCE",  # its checks would hide an address from the sanitizer
)


def loaded(path: Path) -> ModuleType:
    """Return the module in a file, which need not be where the agent would find it."""
    spec = importlib.util.spec_from_loader(NAME, ExtensionFileLoader(NAME, str(path)))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def native(*flags: str) -> ModuleType:
    """Return the library as its sources are now; no warning of the compiler is allowed."""
    with tempfile.TemporaryDirectory(prefix="virtstatd-") as folder:
        target = Path(folder) / "native.abi3.so"
        reason = hook().compiled(target, *STRICT, *flags)
        assert not reason, reason
        return loaded(target)


@cache
def hook() -> ModuleType:
    """Return the hook that compiles the library when the agent is installed."""
    spec = importlib.util.spec_from_file_location("build_fast", CHECKOUT / "agent/build_fast.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("build_fast", module)
    spec.loader.exec_module(module)
    return module
