"""What `make install` puts on a host."""

from __future__ import annotations

import subprocess
from pathlib import Path


TOP = Path(__file__).parents[2]
SYSTEMD = TOP / "systemd"


def make(*arguments: str) -> str:
    """Run make and return what it prints."""
    done = subprocess.run(
        ["make", "-C", str(TOP), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_every_unit_is_installed(tmp_path: Path):
    """The units that are installed are those in systemd/, for the prefix that was chosen."""
    make("install-units", f"UNITS={tmp_path}", "SUDO=", "PREFIX=/srv/agent")

    installed = {each.name: each.read_text() for each in tmp_path.iterdir()}
    kept = {each.name: each.read_text() for each in SYSTEMD.glob("virtstatd.*")}
    assert installed.keys() == kept.keys() == {"virtstatd.service", "virtstatd.socket"}
    for name, text in kept.items():
        assert installed[name] == text.replace("/opt/virtstatd", "/srv/agent")


def test_the_installation_says_how_far_it_is():
    """Each step is announced with its number, all units are installed, the end says what next."""
    # make runs a recipe that calls make even then; it would not come far
    recipe = make("--dry-run", "install", "PYTHON=/bin/false", "UNITS=/none")

    steps = [line.split("'")[1] for line in recipe.splitlines() if "echo '" in line]
    assert [step[:3] for step in steps[:4]] == ["1/4", "2/4", "3/4", "4/4"]
    assert "for unit in virtstatd.service virtstatd.socket; do" in recipe
    assert '"/none/$unit"' in recipe
    assert any("virtstatd doctor" in step for step in steps[4:])
    assert any("systemctl enable --now virtstatd" in step for step in steps[4:])
