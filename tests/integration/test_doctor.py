"""`virtstatd doctor` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

from support.agent import running
from support.command import virtstatd
from support.simulator import simulated
from support.terminal import terminal


def test_a_host_where_all_is_seen(tmp_path: Path):
    """Beside a running agent nothing is missing, and the exit code is 0."""
    with simulated(tmp_path, "--domains=3") as simulator, running(tmp_path, simulator.uri) as agent:
        file = tmp_path / "virtstatd.toml"
        address = agent.address.removeprefix("http://")
        file.write_text(file.read_text().replace("127.0.0.1:0", address))
        done = virtstatd("doctor", "--config", str(file))
        as_json = virtstatd("doctor", "--config", str(file), "--json")

    assert done.stderr == ""
    assert f"answers at http://{address}" in done.stdout
    assert "active guests: 3" in done.stdout
    assert "has no error" in done.stdout
    states = {each["state"] for each in json.loads(as_json.stdout)}
    assert done.returncode == as_json.returncode == ("missing" in states)


def test_what_is_missing_has_a_fix(tmp_path: Path):
    """Without libvirt, an agent and a destination each of them is missing, with what to do."""
    file = tmp_path / "virtstatd.toml"
    file.write_text(
        "[hypervisor]\nuri = 'qemu+unix:///system?socket=/nonexistent/sock'\n"
        "[web]\nlisten_address = '127.0.0.1:1'\n"
        "[[sink]]\ntype = 'influx'\nurl = 'http://127.0.0.1:1'\n"
    )
    done = virtstatd("doctor", "--config", str(file))

    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    for what in ("page", "sink influx", "socket", "libvirt"):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"MISSING  {what}"))
        assert lines[at + 1].strip().startswith("-> ")
    assert lines[-1].endswith(" missing")


def test_a_bad_file_hides_nothing_else(tmp_path: Path):
    """The first fault is reported, and the rest is checked with the defaults."""
    file = tmp_path / "virtstatd.toml"
    file.write_text("[hypervisor]\nurl = 'x'\n")
    done = virtstatd("doctor", "--config", str(file))

    assert done.returncode == 1
    assert f"MISSING  configuration  {file}:2: hypervisor.url: unknown option" in done.stdout
    assert "cgroups" in done.stdout


def test_long_steps_say_what_they_do(tmp_path: Path):
    """At a terminal the step that is under way is shown, and is gone when it is done."""
    file = tmp_path / "virtstatd.toml"
    file.write_text("[hypervisor]\nuri = 'test:///default'\n[[sink]]\ntype = 'null'\n")
    with terminal("doctor", "--config", str(file), columns=200) as doctor:
        doctor.ended()
    assert b"... libvirt and its guests" in doctor.drawn
    assert not any(line.startswith("...") for line in doctor.lines)
