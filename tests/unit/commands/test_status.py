"""What `status` says, and its exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support import documents
from support.api_stub import ApiStub, api_stub
from support.command import virtstatd
from virtstatd.commands.status import code_of, status_lines


def known(*found: dict[str, Any], up: bool = True, **agent: Any) -> dict[str, Any]:
    """Return the documents of a host."""
    return {
        "host": documents.host(up=up),
        "findings": documents.findings(*found),
        "agent": {**documents.agent(), **agent},
    }


def test_a_host_that_is_well():
    """What runs, where it sends, and that there is nothing to do."""
    assert status_lines(known(), "http://127.0.0.1:9766") == [
        "hyper1: all is well",
        (
            "  agent    virtstatd 0.1.0 at http://127.0.0.1:9766, runs for 6d,"
            " costs 12ms of CPU a second"
        ),
        "  libvirt  9.0.0 up, qemu:///system, newest number 1.2s old",
        "  guests   3 running",
        "  host     CPU 42.0% of 64, steal 1.2%, memory 100GiB free of 256GiB",
        "  hurts    nothing",
        "  sent to  mimir: ok, 500ms behind",
        "  do       nothing",
    ]


def test_what_hurts_is_named_with_the_advice():
    """The worst findings are named, the rest counted, and the first advice is what to do."""
    rows = [documents.guest_row(index) for index in range(6)]
    found = [documents.finding(rows[0], "critical"), *map(documents.finding, rows[1:])]
    sinks = documents.agent(state="failing", lost=2000)["sinks"]
    lines = status_lines(known(*found, sinks=sinks), "x")

    assert lines[0] == "hyper1: 1 critical, 5 warnings"
    assert lines[5].startswith("  hurts    !! vCPUs of guest-0000 waited")
    assert lines[9] == "              and 2 more: virtstatd top"
    assert lines[10] == "  sent to  mimir: FAILING, 500ms behind, samples LOST: 2.0k"
    assert lines[11] == "  do       Move a guest away, or give this one a larger share."
    assert len(lines) == 12


def test_a_guest_with_many_findings_hides_no_other():
    """Of each guest one finding comes first."""
    rows = [documents.guest_row(index) for index in range(2)]
    many = [documents.finding(rows[0], id=str(index)) for index in range(9)]
    lines = status_lines(known(*many, documents.finding(rows[1])), "x")
    assert "guest-0000" in lines[5]
    assert "guest-0001" in lines[6]
    assert "guest-0000" in lines[7]
    assert lines[9] == "              and 6 more: virtstatd top"


def test_what_is_left_out_is_said():
    """Guests by the filter, and series that are too many, with their groups; nothing where none."""
    left_out = {"guests": 12, "series": 9000, "groups": ["unknown", "vm"]}
    lines = status_lines(known(left_out=left_out), "x")
    text = "3 running, 12 left out by the filter, 9000 series too many (unknown, vm)"
    assert lines[3] == f"  guests   {text}"


@pytest.mark.parametrize(
    ("found", "up", "code"),
    [((), True, 0), (("warning",), True, 1), (("warning", "critical"), True, 2), ((), False, 2)],
)
def test_the_code_is_the_worst_of_all(found: tuple[str, ...], up: bool, code: int):
    """0 is well, 1 hurts, 2 is critical or without libvirt."""
    row = documents.guest_row(0)
    assert code_of(known(*(documents.finding(row, each) for each in found), up=up)) == code


@pytest.mark.parametrize("name", documents.HOSTILE)
def test_hostile_names_are_one_line(name: str):
    """Whatever a guest is called, each line is one line and nothing in it is interpreted."""
    found = documents.finding(documents.guest_row(0, name), advice=name)
    for line in status_lines(known(found), name):
        assert line.isprintable()


def ran(stub: ApiStub, *more: str) -> tuple[int, str]:
    """Return exit code and output of the command against a stub."""
    done = virtstatd("status", "--url", stub.url, *more)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_command_ends_with_the_code():
    """The command asks an agent and exits with what it found; as JSON too."""
    with api_stub() as stub:
        code, text = ran(stub)
        assert (code, text.splitlines()[0]) == (2, "hyper1: 1 critical, 1 warning")
        del stub.found[0]
        assert ran(stub)[0] == 1
        stub.found.clear()
        assert ran(stub)[0] == 0
        code, text = ran(stub, "--json")
    assert code == 0
    document = json.loads(text)
    assert document["code"] == 0
    assert document["host"]["host"] == "hyper1"


def test_no_agent_is_critical():
    """Where none answers the code is 2, with what to do."""
    done = virtstatd("status", "--url", "http://127.0.0.1:1")
    as_json = virtstatd("status", "--url", "http://127.0.0.1:1", "--json")

    assert (done.returncode, as_json.returncode) == (2, 2)
    assert done.stdout.splitlines()[0].startswith("no agent answers at http://127.0.0.1:1")
    assert "virtstatd doctor" in done.stdout
    assert json.loads(as_json.stdout)["code"] == 2
