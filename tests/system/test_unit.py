"""The unit and its drop-ins, judged by systemd's own tools; no running systemd is needed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from support.servers import needs
from virtstatd.service import web


SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "virtstatd.service"
SOCKET = SYSTEMD / "virtstatd.socket"
DROP_INS = sorted(SYSTEMD.glob("drop-ins/*.conf"))
EXECUTABLE = "/opt/virtstatd/bin/virtstatd"

pytestmark = needs("systemd-analyze")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze and keep what it says."""
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False
    )


def settings(text: str) -> dict[str, list[str]]:
    """Return every value of every directive, in the order of the file."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(params=[None, *DROP_INS], ids=lambda path: path.stem if path else "unit")
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Install the unit alone, or with one drop-in, around an executable that exists."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(EXECUTABLE, "/bin/true"))
    if request.param:
        folder = tmp_path / f"{UNIT.name}.d"
        folder.mkdir()
        shutil.copy(request.param, folder)
    return unit


def test_systemd_accepts_every_line(installed: Path):
    """The unit and each drop-in pass systemd's own check without a single remark."""
    verified = analyze("verify", "--man=no", installed)
    remarks = [line for line in verified.stderr.splitlines() if UNIT.name in line]  # not of others
    assert (verified.returncode, remarks) == (0, [])


def test_the_socket_is_the_one_that_the_agent_looks_for(tmp_path: Path):
    """The socket's unit passes too, and has the name by which the agent takes the socket over."""
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace(EXECUTABLE, "/bin/true"))
    unit = tmp_path / SOCKET.name
    unit.write_text(SOCKET.read_text())
    verified = analyze("verify", "--man=no", unit)
    remarks = [line for line in verified.stderr.splitlines() if SOCKET.name in line]
    assert (verified.returncode, remarks) == (0, [])
    assert settings(SOCKET.read_text())["FileDescriptorName"] == [web.UNIT]


def test_an_unknown_directive_would_be_noticed(installed: Path):
    """The check above can fail: a misspelt directive is a remark."""
    installed.write_text(installed.read_text().replace("WatchdogSec=", "WatchDogSec="))
    assert "WatchDogSec" in analyze("verify", "--man=no", installed).stderr


def test_exposure_stays_small(installed: Path):
    """The sandbox scores 1.5 or better (0 is best, 10 is none) alone and with each drop-in."""
    judged = analyze("security", "--offline=true", "--threshold=15", installed)
    assert judged.returncode == 0, judged.stdout


def test_exposure_would_be_noticed(installed: Path):
    """The check above can fail: without its capability bounding set the unit scores worse."""
    installed.write_text(installed.read_text().replace("CapabilityBoundingSet=\n", ""))
    assert analyze("security", "--offline=true", "--threshold=15", installed).returncode != 0


def test_nothing_but_a_wrong_configuration_ends_the_restarts():
    """However the agent ends, it is started again, without limit; only 78 ends that."""
    unit = settings(UNIT.read_text())
    assert unit["Restart"] == ["always"]
    assert unit["RestartPreventExitStatus"] == ["78"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert "StartLimitBurst" not in unit
    assert unit["RestartSec"] == ["5s"]


def test_a_reload_checks_before_it_signals():
    """A reload runs `check` first, so a bad file never reaches the running agent."""
    check, signal = settings(UNIT.read_text())["ExecReload"]
    assert check == f"{EXECUTABLE} check"
    assert signal == "/bin/kill -HUP $MAINPID"


def test_nothing_is_privileged():
    """The unit asks for no capability, no group and no account of the host."""
    unit = settings(UNIT.read_text())
    assert unit["DynamicUser"] == ["yes"]
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
    assert "SupplementaryGroups" not in unit
