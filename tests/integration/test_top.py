"""`virtstatd top` in a terminal, against an agent's API."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from support.agent import running
from support.api_stub import api_stub
from support.certificates import certificate
from support.command import virtstatd
from support.documents import HOSTILE
from support.simulator import simulated
from support.terminal import terminal
from virtstatd.serving.passwords import made


def test_sorting_filtering_and_opening():
    """Guests are sorted, filtered and opened, the window grows, and a key quits."""
    with api_stub(200) as stub, terminal("top", "--url", stub.url) as top:
        top.shows("What hurts: 1 of 2")
        top.shows("!! critical  5min  guest-0002 does not answer")
        top.shows("Move a guest away")

        top.press("C")
        top.shows(">CPU")
        top.until(lambda lines: "guest-0099" in lines[4] or "guest-0199" in lines[4])
        top.press("r")
        top.shows("<CPU")
        top.press("/guest-01\n")
        top.shows("1/100")
        top.shows("of 200: guest-01")
        top.press("N")
        top.until(lambda lines: lines[4].startswith("  R guest-0100"))
        top.press("\x1b[6~")
        top.shows("20/100")

        top.press("\x1b[B")
        top.shows("21/100")
        top.until(lambda lines: "guest-0120" in lines[22])
        top.press("\r")
        top.shows("guest-0120  running")
        top.shows("vnet0")
        top.resize(120, 40)
        top.shows("Description")
        assert len(top.lines) == 40
        top.press("\x1b")
        top.shows("1/100")
        assert any("NET OUT" in line for line in top.lines)

        top.press("q")
        assert top.ended() == 0
        assert top.restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_killed_one_restores_the_terminal(number: signal.Signals):
    """After a signal the terminal echoes again and shows its cursor."""
    with api_stub() as stub, terminal("top", "--url", stub.url) as top:
        top.shows("q quit")
        assert not top.restored()
        top.process.send_signal(number)

        assert top.ended() == (0 if number == signal.SIGINT else 128 + number)
        assert top.restored()


@pytest.mark.parametrize("term", ["xterm", "xterm-256color", "linux", "vt100", "screen"])
def test_any_terminal_will_do(term: str):
    """Terminals that answer nothing, have no colours or no font draw the same text."""
    with api_stub() as stub, terminal("top", "--url", stub.url, term=term) as top:
        top.shows("What hurts: 1 of 2")
        top.shows("guest-0002 does not answer")
        if term == "linux":
            top.press("\r")
            top.shows("vCPU")
            assert all(line.isascii() for line in top.lines)
        top.press("q")
        assert top.ended() == 0
    assert not re.search(rb"\x1b\[[>=]?[0-9]*[cn]", top.drawn), "the terminal was asked something"


@pytest.mark.parametrize("term", ["dumb", "", "no-such-terminal"])
def test_a_terminal_without_a_cursor_gets_lines(term: str):
    """Where nothing can be drawn, plain frames follow one another until Ctrl-C."""
    with api_stub() as stub, terminal("top", "--url", stub.url, term=term) as top:
        top.shows("What hurts: 1 of 2")
        top.process.send_signal(signal.SIGINT)
        assert top.ended() == 0
    assert b"\x1b" not in top.drawn


def test_hostile_names_do_nothing_to_the_terminal():
    """Names that are escapes and 255 emoji leave every other cell where it is."""
    with api_stub(len(HOSTILE) + 3) as stub:
        for row, name in zip(stub.rows[3:], HOSTILE, strict=True):
            row["name"] = name
        with terminal("top", "--url", stub.url, "--filter", "", lines=30) as top:
            top.press("2")
            top.shows("1/14")
            top.until(lambda lines: all("MB/s" in line[-8:] for line in lines[4:18]))
            drawn = top.drawn
            top.press("q")
            assert top.ended() == 0
    for raw in (b"\x1b[31mred", "\u202e".encode(), b"\x9b2J", "\u200b".encode(), "\u05d0".encode()):
        assert raw not in drawn


def test_an_agent_that_goes_away_is_said_and_found_again():
    """Without an agent the last numbers stay, with the reason; when it is back they go on."""
    with api_stub() as stub, terminal("top", "--url", stub.url, "--interval", "0.5") as top:
        top.shows("3 running")
        stub.answer = (503, '{"error": "too many"}')
        top.shows(": too many")
        assert any("3 running" in line for line in top.lines)
        stub.answer = None
        top.shows("q quit")
        top.press("q")
        assert top.ended() == 0


def test_one_frame_as_text():
    """`--once` prints what hurts and all guests, without a control character."""
    with api_stub(100) as stub:
        done = virtstatd("top", "--url", stub.url, "--once", "--sort", "-cpu_ratio")

    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert all(f"guest-{index:04d}" in done.stdout for index in range(100))
    assert "What hurts: 1 of 2" in done.stdout
    assert ("guests", "-cpu_ratio") in [(path, query.get("sort")) for path, query, _ in stub.asked]


def test_documents_as_json():
    """`--json` prints the documents of the API."""
    with api_stub() as stub:
        done = virtstatd("top", "--url", stub.url, "--json")

    assert done.returncode == 0
    documents = json.loads(done.stdout)
    assert documents.keys() == {"host", "findings", "guests", "agent"}
    assert len(documents["guests"]["guests"]) == 3


def test_without_an_agent_it_says_so():
    """Where no agent answers, the reason is one sentence and the exit code 1."""
    done = virtstatd("top", "--url", "http://127.0.0.1:1", "--once")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no agent answers at http://127.0.0.1:1: Connection refused")
    assert len(done.stderr.splitlines()) == 1


def test_an_agent_is_named_once():
    """Two addresses are one too many."""
    done = virtstatd("top", "--url", "http://127.0.0.1:1", "--host", "x")
    assert done.returncode == 2
    assert "by --url or by --host" in done.stderr


SIMULATED = """
[hypervisor]
uri = "{uri}"
[poll.pulse]
interval_seconds = 1
[poll.monitor]
interval_seconds = 1
[local]
enabled = false
[web]
listen_address = "127.0.0.1:1"
"""


def test_a_running_agent_says_who_does_not_answer(tmp_path: Path):
    """Against an agent: the guest whose monitor hangs is named first, with its advice."""
    with simulated(tmp_path, "--domains=3") as simulator, running(tmp_path, simulator.uri) as agent:
        name = simulator.do("hang", count=1)["domains"][0]
        with terminal("top", "--url", agent.address) as top:
            top.shows(f"The monitor of {name} does not answer")
            top.shows(f"!!X {name}")
            top.press("\r")
            top.shows("STUCK: its monitor does not answer")
            top.press("3")
            top.shows("prometheus")
            top.press("/steal>x\n")
            top.shows("steal>x")
            top.press("q")
            assert top.ended() == 0
        once = virtstatd("top", "--url", agent.address, "--once")
        simulator.do("release")
    assert f"!!X {name}" in once.stdout


def test_alone_where_no_agent_runs(tmp_path: Path):
    """Without an agent the same is shown from collectors within the command, with rates."""
    file = tmp_path / "virtstatd.toml"
    with simulated(tmp_path, "--domains=3") as simulator:
        file.write_text(SIMULATED.format(uri=simulator.uri))
        with terminal("top", "--config", str(file)) as top:
            top.shows("3 running")
            top.shows("alone, no agent")
            top.press("C")
            top.until(lambda lines: all("%" in line for line in lines[4:7]))
            top.press("q")
            assert top.ended() == 0
        done = virtstatd("top", "--config", str(file), "--once")

    assert (done.returncode, done.stderr) == (0, "")
    rows = [line for line in done.stdout.splitlines() if "  R " in line]
    assert len(rows) == 3
    assert all("%" in row for row in rows)


def test_alone_with_a_bad_file(tmp_path: Path):
    """Faults of the configuration are reported as by `check`."""
    file = tmp_path / "virtstatd.toml"
    file.write_text("[hypervisor]\nurl = 'x'\n")
    done = virtstatd("top", "--alone", "--config", str(file), "--once")

    assert done.returncode == 1
    assert done.stderr.startswith(f"{file}:2: hypervisor.url: unknown option")


def test_an_agent_that_wants_a_login_over_tls(tmp_path: Path):
    """The configuration alone names the agent and its certificate; a token or a user logs in."""
    files = certificate(tmp_path)
    secret, password = tmp_path / "token", tmp_path / "password"
    secret.write_text("t0ken\n")
    password.write_text("secret\n")
    more = (
        f"[web]\ncertificate_file = '{files[0]}'\nkey_file = '{files[1]}'\n"
        f"token_files = {{ t = '{secret}' }}\nusers = {{ ann = '{made('secret')}' }}\n"
    )
    with running(tmp_path, "test:///default", more=more) as agent:
        agent.wait_for(lambda: agent.events("web.listening"))
        port = agent.events("web.listening")[0]["port"]
        file = tmp_path / "virtstatd.toml"
        file.write_text(file.read_text().replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"'))
        here = ("--config", str(file))
        without = virtstatd("status", *here)
        token = virtstatd("status", *here, "--token-file", str(secret))
        user = virtstatd("status", *here, "--user", "ann", "--password-file", str(password))
        address = ("--url", f"https://localhost:{port}", "--token-file", str(secret))
        strange = virtstatd("status", *address)
        known = virtstatd("status", *address, "--ca-file", str(files[0]))

    assert (without.returncode, "wants a login" in without.stdout) == (2, True)
    for done in (token, user, known):
        assert "  agent    virtstatd " in done.stdout
    assert (strange.returncode, "--ca-file" in strange.stdout) == (2, True)
