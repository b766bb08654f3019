"""`virtstatd simulate`: its options, its words, and the socket that it takes and gives back."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.simulator import python


SIMULATE = (sys.executable, "-m", "virtstatd", "simulate")


def refused(*options: str) -> tuple[int, str]:
    """Return code and last line of a simulator that does not start."""
    done = subprocess.run(
        [*SIMULATE, *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        ([], 2, "Error: Missing option '--socket'."),
        (["--domains=-1"], 2, "Error: Invalid value for '--domains': -1 is not in the range"),
        (["--libvirt=8"], 2, "Error: Invalid value for '--libvirt': '8' is not one of '9'"),
        (["--churn-per-second=1e9"], 2, "Error: Invalid value for '--churn-per-second': 1"),
        (["--churn-per-second=nan"], 1, "Error: churn_per_second must be from 0 to 10000, is nan"),
        (["--replay={0}/no"], 1, "Error: the simulator cannot start: {0}/no: No such file or dir"),
        (["--replay={0}/nonsense"], 1, "Error: the simulator cannot start: {0}/nonsense: "),
        (["--script={0}/nonsense"], 1, "Error: the simulator cannot start: {0}/nonsense:1: no J"),
        (["--control={0}/nonsense"], 1, "Error: the simulator cannot start: {0}/nonsense: Addr"),
        (["--socket={0}/nonsense"], 1, "Error: the simulator cannot start: {0}/nonsense: Addr"),
        (["--socket={0}/no/where"], 1, "Error: the simulator cannot start: {0}/no/where: No su"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, options: list[str], code: int, complaint: str
) -> None:
    """Wrong options end with 2, what the machine refuses with 1; nothing is left or harmed."""
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("no JSON")
    if options:
        options = [f"--socket={tmp_path}/socket", *(each.format(tmp_path) for each in options)]
    ended, said = refused(*options)
    assert (ended, said[: len(complaint.format(tmp_path))]) == (code, complaint.format(tmp_path))
    assert nonsense.read_text() == "no JSON"
    assert list(tmp_path.iterdir()) == [nonsense]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_socket_is_taken_from_the_dead_alone(tmp_path: Path, end: signal.Signals) -> None:
    """A socket that nobody listens at is replaced, one that is alive is not; the end removes it."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    options = ("--socket=socket", "--domains=7", "--profile=small", "--metadata=none")
    with subprocess.Popen([*SIMULATE, *options], stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout
        ready = json.loads(process.stdout.readline())
        assert ready["domains"] == 7
        code, said = refused(f"--socket={path}")
        assert code == 1
        assert said.endswith(f"{path}: Address already in use")
        with python(ready["uri"]) as ask:
            assert ask("c.numOfDomains()") == 7
        process.send_signal(end)
        assert process.wait(20) == 0
    assert not path.exists()
