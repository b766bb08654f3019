"""`virtstatd simulate`: its options, its words, and the socket that it takes and gives back."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.simulator import python
from virtstatd_simulator.command import simulate
from virtstatd_simulator.faults.verbs import VERBS


SIMULATE = (sys.executable, "-m", "virtstatd", "simulate")


def refused(*options: str) -> tuple[int, str]:
    """Return code and last line of a simulator that does not start."""
    done = CliRunner().invoke(simulate, options, prog_name="virtstatd simulate")
    assert done.stdout == ""
    return done.exit_code, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        ([], 2, "Error: Missing option '--socket'."),
        (["--domains=-1"], 2, "Error: Invalid value for '--domains': -1 is not in the range"),
        (["--libvirt=8"], 2, "Error: Invalid value for '--libvirt': '8' is not one of '9'"),
        (["--job-wait-seconds=nan"], 1, "Error: job_wait_seconds must be from 0 to inf, is nan"),
        (["--replay={0}/no"], 1, "Error: the simulator cannot start: {0}/no: No such file or dir"),
        (["--replay={0}/nonsense"], 1, "Error: the simulator cannot start: {0}/nonsense: "),
        (["--replay={0}/number"], 1, "Error: the simulator cannot start: {0}/number is not a list"),
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
    number = tmp_path / "number"
    number.write_text("7")
    if options:
        options = [f"--socket={tmp_path}/socket", *(each.format(tmp_path) for each in options)]
    ended, said = refused(*options)
    assert (ended, said[: len(complaint.format(tmp_path))]) == (code, complaint.format(tmp_path))
    assert nonsense.read_text() == "no JSON"
    assert {*tmp_path.iterdir()} == {nonsense, number}


def test_the_help_explains_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """Each verb of the control socket and each argument is there, with range and default."""
    with pytest.raises(SystemExit):
        simulate(["--help"], prog_name="virtstatd simulate")
    protocol = capsys.readouterr().out.partition("\nControl:\n")[2]
    listed = re.findall(r"(?m)^(  |    )(\w+) {2,}\S", protocol)
    assert listed == [
        row
        for verb in VERBS.values()
        for row in [("  ", verb.name), *(("    ", each.name) for each in verb.parameters)]
    ]
    words = " ".join(protocol.split())
    for phrase in (
        "count how many guests, without domains: an integer from 1 to 1000000; default 1.",
        "down_seconds seconds without it: a number from 0 to 86400; default 0.0.",
        "uri its name space: a text; required.",
        "or null for every procedure; default null.",
    ):
        assert phrase in words


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_socket_is_taken_from_the_dead_alone(tmp_path: Path, end: signal.Signals) -> None:
    """A socket that nobody listens at is replaced, one that is alive is not; the end removes it."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    options = ("--socket=socket", "--domains=7", "--profile=small")
    with subprocess.Popen([*SIMULATE, *options], stdout=subprocess.PIPE, cwd=tmp_path) as process:
        try:
            assert process.stdout
            ready = json.loads(process.stdout.readline())
            assert ready["domains"] == 7
            code, said = refused(f"--socket={path}")
            assert code == 1
            assert said.endswith(f"{path}: Address already in use")
            with python(ready["uri"]) as ask:
                assert ask("len(c.listAllDomains())") == 7
            process.send_signal(end)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert not path.exists()
