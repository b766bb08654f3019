"""The command as its users meet it: what it prints and how it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.agent import running
from support.command import virtstatd
from support.simulator import simulated
from virtstatd.pipeline.promises import PROMISES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a configuration file to be written to."""
    return tmp_path / "virtstatd.toml"


TEN_FAULTS = Path(__file__).parent.parent / "config" / "bad" / "ten_faults.toml"


def test_ten_faults_are_ten_lines():
    """Every fault of a file is told at once, each with its place, and the exit code is 78."""
    done = virtstatd("check", "--config", str(TEN_FAULTS))

    assert done.returncode == 78
    lines = done.stderr.splitlines()
    assert len(lines) == 10
    assert all(line.startswith(f"{TEN_FAULTS}:") for line in lines)


def test_run_refuses_a_bad_file_as_check_does():
    """The service ends with 78, on which systemd does not start it again."""
    done = virtstatd("run", "--config", str(TEN_FAULTS))

    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 10


@pytest.mark.parametrize("command", ["fields", "sinks", "check", "help", "config"])
def test_output_without_room_is_one_line(command: str):
    """A full disk under what a command prints is a sentence, and no stack of calls."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "virtstatd", command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "cannot write: No space left on device\n")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_stream_is_no_ones_number(file: Path, closed: int):
    """Whoever starts the command without a stream gets its result, not an abort of the loop."""
    file.write_text("[hypervisor]\nuri = 'test:///default'\n")
    command = f'exec "$0" -m virtstatd once --config "$1" {closed}>&-'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, str(file)], capture_output=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"\nlibvirt_domain_info_state{" in done.stdout) is (closed != 1)


def test_a_good_file_is_called_good(file: Path):
    """`check` says which sinks there will be and what each of them promises."""
    file.write_text("[[sink]]\ntype = 'null'\n")
    done = virtstatd("check", "--config", str(file))

    assert (done.returncode, done.stderr) == (0, "")
    assert PROMISES["memory"].text in done.stdout
    assert "at 50 ms an answer it carries 20 batches a second, one at a time\n" in done.stdout


def test_a_connection_that_could_change_guests_is_said(tmp_path: Path):
    """`check` says where one is opened, and only where it is."""
    file = tmp_path / "virtstatd.toml"
    file.write_text("[guest_agent]\nenabled = true\n")
    assert "guest_agent: opens a read-write connection" in virtstatd("check", str(file)).stdout
    file.write_text("[guest_agent]\nenabled = false\n")
    assert "read-write" not in virtstatd("check", str(file)).stdout


def test_check_says_what_each_sink_can_carry(file: Path):
    """`check` says how much a sink carries where answers take 50 ms, of those that push."""
    file.write_text(
        "[[sink]]\ntype = 'influx'\nrequest_samples = 1000\n[[sink]]\ntype = 'prometheus'\n"
    )
    done = virtstatd("check", str(file))

    assert done.stdout.count("at 50 ms an answer it carries") == 1
    assert "at 50 ms an answer it carries 160000 samples a second at most\n" in done.stdout


def test_check_takes_the_file_as_it_comes(file: Path):
    """The file may stand there alone or behind `--config`, but not both."""
    file.write_text("[[sink]]\ntype = 'null'\n")
    alone = virtstatd("check", str(file))
    option = virtstatd("check", "--config", str(file))
    both = virtstatd("check", str(file), "--config", str(file))

    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout == option.stdout
    assert alone.stdout.startswith(f"{file}: good; sinks:\n")
    assert both.returncode == 2
    assert both.stderr.endswith("Error: name the file once\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "deadline_seconds = 5|pulse 2.5 s, monitor 5 s, extra 5 s"),
        (
            "[hypervisor]\ndeadline_seconds = 60",
            "deadline_seconds = 60|pulse 2.5 s, monitor 7.5 s, extra 7.5 s",
        ),
        (
            "[poll.pulse]\ninterval_seconds = 1\n[poll.monitor]\ngroups = []",
            "deadline_seconds = 5|pulse 1 s, extra 5 s",
        ),
    ],
)
def test_check_says_when_calls_are_abandoned(file: Path, text: str, told: str):
    """The deadline that is in force for each tier is told, which an interval may shorten."""
    file.write_text(f"{text}\n[[sink]]\ntype = 'null'\n")
    first, second = told.split("|")
    done = virtstatd("check", str(file))

    assert done.stdout.splitlines()[-2:] == [
        f"calls are abandoned after {first}, half an interval at most:",
        f"    {second}",
    ]


def test_check_finds_what_cannot_work_here(file: Path):
    """A port in use, a missing secret and a missing folder end a check with 78 and their lines."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        file.write_text(
            f"[[sink]]\ntype = 'prometheus'\nlisten_address = '127.0.0.1:{port}'\n"
            "[[sink]]\ntype = 'influx'\ntoken_file = '/none/token'\n"
            "[[sink]]\ntype = 'textfile'\npath = '/none/v.prom'\n"
        )
        done = virtstatd("check", str(file))

    assert done.returncode == 78
    assert [line.partition("; ")[0] for line in done.stderr.splitlines()] == [
        (
            f"{file}:3: sink[0].listen_address: cannot listen at 127.0.0.1:{port}:"
            " the port is in use"
        ),
        f"{file}:6: sink[1].token_file: cannot read /none/token: No such file or directory",
        f"{file}:9: sink[2].path: cannot write /none/v.prom",
    ]


def test_check_beside_the_agent_it_is_for_is_good(tmp_path: Path):
    """The port that the running agent has is a note and no fault: a reload begins with a check."""
    with running(tmp_path, "test:///default") as agent:
        file = tmp_path / "virtstatd.toml"
        address = agent.address.removeprefix("http://")
        file.write_text(file.read_text().replace("127.0.0.1:0", address))
        done = virtstatd("check", str(file))

    assert (done.returncode, done.stderr) == (0, "")
    (note,) = (line for line in done.stdout.splitlines() if line.startswith("note: "))
    line = file.read_text().splitlines().index(f'listen_address = "{address}"') + 1
    assert note == (
        f"note: {file}:{line}: sink[0].listen_address: an agent listens here already,"
        " which is fine where that one takes this file"
    )


def test_partitions_where_there_are_none(tmp_path: Path):
    """Where no guest runs on this host a sentence says so, in place of an empty table."""
    with simulated(tmp_path, "--domains=0") as simulator:
        file = tmp_path / "virtstatd.toml"
        file.write_text(f"[hypervisor]\nuri = '{simulator.uri}'\n")
        done = virtstatd("partitions", "--config", str(file))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no partitions: none of libvirt's guests runs on this host\n"


def test_optimised_python_is_refused():
    """`python -O` removes what libvirtaio needs; the agent says so in one sentence."""
    done = virtstatd("run", python=("-O",))

    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1
    assert "-O" in done.stderr


def test_a_port_in_use_is_one_sentence(file: Path):
    """Another listener on the port ends the start with what to do about it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        file.write_text(f"[[sink]]\ntype='prometheus'\nlisten_address='127.0.0.1:{port}'\n")
        done = virtstatd("run", "--config", str(file))

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(port) in done.stderr
    assert "in use" in done.stderr


def test_a_file_that_cannot_be_written_is_one_sentence(file: Path):
    """A JSON lines file in a folder that does not exist ends the start with its path."""
    file.write_text("[[sink]]\ntype='jsonl'\ntarget='/nonexistent/folder/out.jsonl'\n")
    done = virtstatd("run", "--config", str(file))

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "/nonexistent/folder" in done.stderr


def test_a_sink_that_cannot_be_imported_names_itself(file: Path):
    """An unknown sink is a fault of the file, with the nearest right name."""
    file.write_text("[[sink]]\ntype='promethius'\n")
    done = virtstatd("check", "--config", str(file))

    assert done.returncode == 78
    assert "prometheus" in done.stderr


@pytest.mark.parametrize("uri", ["qemu+unix:///system?socket=/nonexistent/sock", "nodriver:///x"])
def test_a_uri_that_does_not_open_is_said_once_and_tried_for_ever(tmp_path: Path, uri: str):
    """The service goes on without libvirt and says why in one line of its log."""
    with running(tmp_path, uri) as agent:
        agent.wait_for(lambda: agent.events("libvirt.unreachable"))
        ticks = agent.value("virtstatd_ticks_total", tier="pulse") or 0
        agent.wait_for(
            lambda: (agent.value("virtstatd_ticks_total", tier="pulse") or 0) > ticks + 2
        )
        assert agent.value("libvirt_up") == 0
        assert len(agent.events("libvirt.unreachable")) == 1
        assert agent.stop() == 0


def test_a_socket_without_permission_is_said(tmp_path: Path):
    """A socket that refuses the agent is named in the log, and the agent serves on."""
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))  # and never listens: connecting is refused
        with running(tmp_path, f"qemu+unix:///system?socket={path}") as agent:
            agent.wait_for(lambda: agent.events("libvirt.unreachable"))
            reason = str(agent.events("libvirt.unreachable")[0]["reason"])
            assert str(path) in reason
            assert reason.endswith("; start libvirtd or virtqemud")
            assert not agent.events("local.blind")  # no guest is known that could be seen


def test_once_without_libvirt_says_so(file: Path):
    """A look at a host without libvirt is one sentence and exit code 1."""
    file.write_text("[hypervisor]\nuri = 'qemu+unix:///system?socket=/nonexistent/sock'\n")
    done = virtstatd("once", "--config", str(file))

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "/nonexistent/sock" in done.stderr


@pytest.mark.parametrize("form", ["prometheus", "jsonl"])
def test_once_prints_what_the_test_driver_has(file: Path, form: str):
    """Any libvirt URI will do, libvirt's own test driver among them."""
    file.write_text("[hypervisor]\nuri = 'test:///default'\n")
    done = virtstatd("once", "--config", str(file), "--format", form)

    assert (done.returncode, done.stderr) == (0, "")
    assert "running" in done.stdout


def test_fields_and_sinks_print_what_there_is():
    """The catalog and the sinks tell about themselves."""
    fields = virtstatd("fields").stdout
    sinks = virtstatd("sinks").stdout

    assert "libvirt_domain_vcpu_delay_seconds_total" in fields
    assert "vcpu.{vcpu}.delay" in fields
    assert all(f"\n{name} (" in sinks for name in ("prometheus", "jsonl", "null"))


def test_fields_and_sinks_can_be_narrowed():
    """`fields` takes a word of the lines it prints, `sinks` a name; what is not there is said."""
    whole, some = (virtstatd("fields", "--format", "table", *word).stdout for word in ((), ("x.",)))
    lines = some.splitlines()
    assert 2 < len(lines) < len(whole.splitlines())
    rows = {" ".join(line.split()) for line in whole.splitlines()}
    assert {" ".join(line.split()) for line in lines} <= rows
    assert "delay_seconds" in virtstatd("fields", "DELAY").stdout
    none = virtstatd("fields", "nosuchword")
    assert (none.returncode, none.stdout) == (1, "")
    assert none.stderr == "no statistic has 'nosuchword' in its line\n"

    kafka = virtstatd("sinks", "kafka").stdout
    assert kafka.startswith("kafka (memory): ")
    assert 'brokers = ["127.0.0.1:9092"]\n    Hosts and ports' in kafka
    unknown = virtstatd("sinks", "kafak")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "unknown sink type 'kafak', did you mean kafka?\n"


def test_sighup_begins_anew_on_the_same_socket(tmp_path: Path):
    """A reload keeps the process and the page's port, and takes the new file."""
    with running(tmp_path, "test:///default") as agent:
        agent.wait_for(lambda: agent.value("libvirt_up") == 1)
        address, pid = agent.address, agent.pid
        assert agent.value("virtstatd_interval_seconds", tier="pulse") == 1
        file = tmp_path / "virtstatd.toml"
        file.write_text(file.read_text().replace("interval_seconds = 1", "interval_seconds = 2"))
        os.kill(pid, 1)
        agent.wait_for(lambda: len(agent.events("agent.started")) == 2)
        assert agent.address == address
        agent.wait_for(lambda: agent.value("virtstatd_interval_seconds", tier="pulse") == 2)
        assert agent.pid == pid
        assert [e["port"] for e in agent.events("web.listening")] == [int(address[17:])] * 2
        assert agent.stop() == 0


def test_sighup_with_a_bad_file_changes_nothing(tmp_path: Path):
    """A bad file is refused with its faults, and the agent goes on as it was."""
    with running(tmp_path, "test:///default") as agent:
        agent.wait_for(lambda: agent.value("libvirt_up") == 1)
        (tmp_path / "virtstatd.toml").write_text("[pol]\n")
        os.kill(agent.pid, 1)
        agent.wait_for(lambda: agent.events("config.rejected"))
        assert len(agent.events("agent.started")) == 1
        assert agent.value("libvirt_up") == 1


def test_an_invented_field_is_one_line(tmp_path: Path):
    """A line in the catalog changes the list of fields without any code."""
    from virtstatd import catalog

    extra = tmp_path / "extra.toml"
    extra.write_text(
        'group = "block"\n[fields]\n"{target_device}.wear" = { name = "wear", kind = "gauge", '
        'unit = "seconds", help = "Invented for this test." }\n'
    )
    before, after = catalog.load().table(), catalog.load(extra).table()
    assert "libvirt_domain_block_stats_wear_seconds" not in before
    assert "libvirt_domain_block_stats_wear_seconds" in after
    assert "libvirt_domain_block_stats_wear_seconds" in catalog.load(extra).table("markdown")


def test_events_are_explained():
    """`virtstatd events WORD` prints what an event means and what to do."""
    done = virtstatd("events", "unresponsive")
    assert done.stdout.startswith("domain.unresponsive (warning)\n    ")
    assert "\n    Follow `fix`: its QEMU process" in done.stdout
    assert virtstatd("events").stdout.count("\n") > 60
    none = virtstatd("events", "zzz")
    assert (none.returncode, none.stderr) == (1, "no event has 'zzz' in its name\n")


def test_a_start_says_what_was_found(tmp_path: Path):
    """The log of a start has libvirt, guests, sources, sinks and the page, and what is next."""
    with running(tmp_path, "test:///default") as agent:
        agent.wait_for(lambda: agent.events("agent.found"))
        (found,) = agent.events("agent.found")

        assert found["guests"] == 1
        assert str(found["libvirt"]).count(".") == 2
        assert found["sinks"] == ["prometheus"]
        assert found["page"] == f"{agent.address}/"
        assert found["missing"] == [
            "numbers of the kernel: the driver test has no processes that could be read"
        ]
        assert str(found["next"]).startswith("virtstatd doctor")
