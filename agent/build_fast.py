"""
Compile the agent's library in C when a wheel or an editable installation is made.

Nothing fails without a compiler or Python's headers: the agent then does the same in Python.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


SOURCES = Path(__file__).parent / "virtstatd" / "_fast"
LIBRARY = "native.abi3.so"
SWITCH = "VIRTSTATD_FAST"
"""`python` in this variable has no library compiled, nor used by an agent that has one."""

FLAGS = (
    *("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra"),
    *("-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"),
    "-Wl,-z,relro,-z,now",
)
COMPILE_SECONDS = 120.0


def compiled(target: Path, *flags: str) -> str:
    """Compile the library into a file; return why that cannot be done here, empty if it was."""
    command = [
        *shlex.split(os.environ.get("CC") or "cc"),
        *FLAGS,
        *shlex.split(os.environ.get("CPPFLAGS", "")),
        *shlex.split(os.environ.get("CFLAGS", "")),
        *flags,
        f"-I{sysconfig.get_path('include')}",
        *map(str, sorted(SOURCES.glob("*.c"))),
        *shlex.split(os.environ.get("LDFLAGS", "")),
        "-ldl",  # empty since glibc 2.34
        *("-o", str(target)),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - the compiler that whoever builds has chosen
            command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return done.stderr.strip() or "the compiler failed" if done.returncode else ""


class FastHook(BuildHookInterface[Any]):
    """Put the library into the wheel, or beside its sources if these are what is installed."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of the wheel are collected."""
        if version == "editable":
            target = SOURCES / LIBRARY
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="virtstatd-")
            target = Path(self._folder.name) / LIBRARY
        python = os.environ.get(SWITCH) == "python"
        if reason := f"{SWITCH} says python" if python else compiled(target):
            self.app.display_warning(f"The agent gets no library in C: {reason}")
            return
        if version == "editable":  # nothing of the agent is in such a wheel
            return
        build_data["force_include"][str(target)] = f"virtstatd/_fast/{LIBRARY}"
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"

    def finalize(self, version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        """Remove what is in the wheel by now."""
        if version != "editable":
            self._folder.cleanup()
