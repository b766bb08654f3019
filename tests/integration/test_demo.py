"""`virtstatd demo`: guests without a hypervisor, and nothing left of them."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from support.demo import MODULE, Demo, demonstrated, wait_until_gone


ENDINGS: dict[str, tuple[Callable[[Demo], None], int]] = {
    "ctrl-c": (lambda demo: demo.type("\x03"), 0),
    "ctrl-c twice": (lambda demo: demo.type("\x03\x03"), 0),
    "terminal closed": (Demo.close_terminal, 0),
    "killed": (lambda demo: demo.process.kill(), -signal.SIGKILL),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_numbers_move_and_nothing_is_left(tmp_path: Path, ending: str) -> None:
    """Guests' counters grow; however the demo ends, processes, socket and directory end with it."""
    end, code = ENDINGS[ending]
    with demonstrated(tmp_path, "--domains=8") as demo:
        demo.wait_until_moving()
        assert len(demo.counters()) == 8
        at = f"http://127.0.0.1:{demo.port}"
        with urllib.request.urlopen(f"{at}/", timeout=100) as answer:
            assert b"main.js" in answer.read()
        assert demo.said().splitlines() == [
            f"Open {at}/ in a browser: 8 simulated guests, no hypervisor.",
            f"In a terminal: virtstatd top --url {at}",
            f"Metrics: {at}/metrics",
            (
                "Polled faster than by default (in brackets): pulse every 1 s (5 s),"
                " monitor every 1 s (15 s), extra every 5 s (60 s)."
            ),
            "Ctrl-C ends the demo.",
        ]
        simulator = demo.children()
        assert len(simulator) == 1
        (folder,) = tmp_path.iterdir()
        assert (folder / "socket").is_socket()
        end(demo)
        ended = demo.process.wait(100)
        assert ended == code or (ending == "ctrl-c twice" and ended == 1)
        assert "Traceback" not in demo.said()
        wait_until_gone(*simulator)
        assert list(tmp_path.iterdir()) == []


def test_a_signal_before_the_page_is_there_ends_everything(tmp_path: Path) -> None:
    """Whoever changes their mind at once leaves nothing behind either."""
    with demonstrated(tmp_path, "--domains=8") as demo:
        demo.wait_for(demo.children)
        simulator = demo.children()
        demo.type("\x03")
        demo.process.wait(100)
        assert "Traceback" not in demo.said()
        wait_until_gone(*simulator)
        assert list(tmp_path.iterdir()) == []


def test_a_simulator_that_nobody_waits_for_any_more_says_nothing(tmp_path: Path) -> None:
    """Where its parent has gone before it was ready it ends without a word, and leaves nothing."""
    reader, writer = os.pipe()
    os.close(reader)
    child = subprocess.Popen(
        [sys.executable, "-m", "virtstatd_simulator.child", "8"],
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    os.close(writer)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (1, b"")
    assert list(tmp_path.iterdir()) == []


def refused(*options: str, cwd: Path, **environ: str) -> tuple[int, str]:
    """Return code and complaint of a demo that does not start."""
    done = subprocess.run(
        [*MODULE, "demo", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(cwd), **environ},
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    """Who cannot listen says so in one line, and the simulator is gone."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, said = refused(f"--listen-address=127.0.0.1:{port}", cwd=tmp_path)
    assert code == 1
    assert re.fullmatch(
        rf"virtstatd demo: cannot listen at 127.0.0.1:{port}:"
        r" the port is in use; .*\n",
        said,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_simulator_that_cannot_start_is_one_sentence(tmp_path: Path) -> None:
    """The reason comes from the simulator: here no path as long as this can be a socket."""
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    code, said = refused(cwd=tmp_path, TMPDIR=str(folder))
    assert code == 1
    assert re.fullmatch(
        r"virtstatd demo: the simulator did not start: .* is longer than .*\n", said
    )
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--listen-address=9766", "must be host:port, like 127.0.0.1:9766"),
        ("--domains=-1", "-1 is not in the range"),
        ("--domains=many", "'many' is not a valid integer"),
        ("--guests=7", "No such option"),
    ],
)
def test_bad_options_are_told(tmp_path: Path, option: str, complaint: str) -> None:
    """A wrong option ends with 2 before anything is started."""
    code, said = refused(option, cwd=tmp_path)
    assert code == 2
    assert complaint in said


@pytest.mark.timeout(400)
def test_an_installed_wheel_demonstrates_itself(tmp_path: Path) -> None:
    """Nothing but the wheel and its dependencies is needed: no checkout, no hypervisor."""
    root = Path(__file__).parents[2]
    # without isolation where the build's own requirement is there, for then it needs no network
    here = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    wheels, venv = tmp_path / "wheels", tmp_path / "venv"

    def run(*command: str) -> str:
        done = subprocess.run(
            command, env=clean, cwd=tmp_path, timeout=100, check=True, capture_output=True
        )
        return done.stdout.decode()

    run(*pip, "wheel", "--no-deps", *here, f"--wheel-dir={wheels}", str(root))
    (wheel,) = wheels.iterdir()
    run(sys.executable, "-m", "venv", "--without-pip", str(venv))
    (site,) = venv.glob("lib/python3.*/site-packages")
    # only the paths: a checkout that is installed beside the dependencies stays out of it
    (site / "dependencies.pth").write_text(f"{dependencies()}\n")
    run(*pip, f"--python={venv}/bin/python", "install", "--no-deps", "--no-index", str(wheel))
    where = run(f"{venv}/bin/python", "-c", "import virtstatd; print(virtstatd.__file__)")
    assert Path(where.strip()).is_relative_to(site)

    folder = tmp_path / "work"
    folder.mkdir()
    command = ("env", "-u", "PYTHONPATH", f"{venv}/bin/virtstatd")
    with demonstrated(folder, "--domains=20", command=command) as demo:
        demo.wait_until_moving()
        assert len(demo.counters()) == 20
        assert f"In a terminal: {venv}/bin/virtstatd top " in demo.said()
        simulator = demo.children()
        demo.type("\x03")
        assert demo.process.wait(100) == 0
        wait_until_gone(*simulator)
    assert list(folder.iterdir()) == []


def dependencies() -> Path:
    """Return where what the package depends on is installed."""
    spec = importlib.util.find_spec("libvirt")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
