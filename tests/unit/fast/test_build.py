"""The hook that compiles the library, and what the agent does without one."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.native import CHECKOUT, hook, loaded, native
from virtstatd import _fast


ASK = "from virtstatd import _fast; print(_fast.IN_C, _fast.KEPT.__module__)"
PYTHON = "virtstatd._fast.plain"


def wheel(folder: Path, environment: Mapping[str, str]) -> Path:
    """Build the agent's wheel and return it."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(
        command, cwd=CHECKOUT, env=os.environ | environment, capture_output=True, check=True
    )
    (found,) = folder.glob("*.whl")
    return found


def in_c(agent: Path, fast: str = "") -> str:
    """Return what an agent from a folder says of its library."""
    given = {"PYTHONPATH": str(agent), "PYTHONDONTWRITEBYTECODE": "1", "VIRTSTATD_FAST": fast}
    command = [sys.executable, "-P", "-c", ASK]
    return subprocess.check_output(command, env=os.environ | given, text=True).strip()


@pytest.mark.slow
def test_a_wheel_has_the_library_and_python_is_an_option(tmp_path: Path):
    """The wheel is for every Python from 3.11 on; VIRTSTATD_FAST=python leaves the library out."""
    made = wheel(tmp_path, {"VIRTSTATD_FAST": ""})
    assert "-cp311-abi3-linux_" in made.name
    with zipfile.ZipFile(made) as packed:
        packed.extractall(tmp_path / "files")
    assert not list((tmp_path / "files/virtstatd/_fast").glob("*.[ch]"))
    assert in_c(tmp_path / "files") == "True virtstatd._fast.native"
    assert in_c(tmp_path / "files", "python") == f"False {PYTHON}"


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"CC": "/none"}, {"VIRTSTATD_FAST": "python"}])
def test_without_a_compiler_a_wheel_is_built_all_the_same(
    tmp_path: Path, environment: dict[str, str]
):
    """The wheel is then one for every system, and the agent in it does everything in Python."""
    made = wheel(tmp_path, environment)
    assert made.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(made) as packed:
        packed.extractall(tmp_path / "files")
    assert in_c(tmp_path / "files") == f"False {PYTHON}"


def test_a_compiler_that_fails_says_why(tmp_path: Path):
    """The reason is the compiler's own, and no library is left."""
    target = tmp_path / "native.so"
    assert "none.h" in hook().compiled(target, "-include", "none.h")
    assert not target.exists()


def test_a_build_is_hardened_and_the_same_each_time(tmp_path: Path):
    """Two builds are the same bytes, with a guarded stack and read-only tables of the linker."""
    targets = [tmp_path / name / "native.so" for name in ("one", "another")]
    for target in targets:
        target.parent.mkdir()
        assert hook().compiled(target) == ""
    assert targets[0].read_bytes() == targets[1].read_bytes()
    headers = ("readelf", "--wide", "--segments", "--dynamic", "--symbols")
    said = subprocess.check_output([*headers, targets[0]], text=True)
    for sign in ("GNU_RELRO", "BIND_NOW", "__stack_chk_fail"):
        assert sign in said


def test_only_the_stable_interface_is_used(tmp_path: Path):
    """The library imports nothing of the interpreter that later ones may lack."""
    target = tmp_path / "native.so"
    assert hook().compiled(target) == ""
    loaded(target)
    symbols = subprocess.check_output(["nm", "--dynamic", "--undefined-only", target], text=True)
    private = [line.split()[-1] for line in symbols.splitlines() if " _Py" in line]
    with_sizes = ("Arg_ParseTuple", "Object_CallFunction", "_BuildValue")
    stable = {"_Py_Dealloc", "_Py_NoneStruct", *(f"_Py{name}_SizeT" for name in with_sizes)}
    assert set(private) <= stable


def test_a_library_of_other_sources_is_not_used():
    """The library and the code in Python agree on the interface between them."""
    assert native().INTERFACE == _fast._INTERFACE
