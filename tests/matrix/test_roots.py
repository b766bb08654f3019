"""The Debian systems that the matrix is made of."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from matrix.support.generation import ROOTS, Generation
from support.roots import SETTINGS, Root, Unreachable


def test_a_root_is_nothing_but_debian(generation: Generation):
    """No list, package or setting of this machine is in a root, and a lab leaves no trace in it."""
    folder = ROOTS[generation.suite].made()
    assert (folder / "usr/sbin/libvirtd").exists()
    assert not [name for name in SETTINGS if Path(f"{folder}{name}").is_file() and "pip" in name]
    assert not (folder / "etc/resolv.conf").exists()
    assert not list(folder.glob("var/lib/apt/lists/*Packages*"))
    assert not list(folder.glob("var/cache/apt/archives/*.deb"))
    since = generation.directory / "top"  # made with the lab, and not touched again from outside
    newer = ["find", str(folder), "-mindepth", "1", "-newercm", str(since)]
    assert subprocess.check_output(newer, text=True) == ""


@pytest.mark.needs("root", "mmdebstrap")
def test_a_suite_that_cannot_be_had_is_named(tmp_path: Path):
    """Where the archive does not answer, the reason names the suite, and no folder is left."""
    with pytest.raises(Unreachable, match=r"^nonesuch cannot be made, [^\n]+$"):
        Root("nonesuch", roots=tmp_path).made()
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_root_that_is_there_is_not_made_again(tmp_path: Path):
    """What was made of equal parts is found again, and what nobody uses is removed."""
    root = Root("sid", ("one",), roots=tmp_path)
    (tmp_path / root.name).mkdir()
    assert root.made() == tmp_path / root.name
    assert Root("sid", ("one", "two")).name != root.name
    assert re.fullmatch(r"sid-[0-9a-f]{12}", root.name)
    old, used = tmp_path / "sid-0", tmp_path / "sid-1"
    for folder in (old, used):
        folder.mkdir()
    os.utime(old, (0, 0))
    with pytest.raises(Unreachable):
        Root("nonesuch", roots=tmp_path).made()
    assert used.exists()
    assert not old.exists()
