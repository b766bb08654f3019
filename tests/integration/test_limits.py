"""What becomes of a run of the tests when one of them hangs."""

import os
import re
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest


TESTS = Path(__file__).parents[1]
CONFIGURATION = """
[pytest]
addopts = -p support.limits -p no:cacheprovider
asyncio_mode = auto
timeout = 1
timeout_grace = 1
"""
HEAD = """
import asyncio, ctypes, os, subprocess, sys, threading, time
import pytest

async def deaf():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
"""
CONFTEST = """
import uvloop
def pytest_asyncio_loop_factories():
    return {"uvloop": uvloop.new_event_loop}
"""
INTERRUPTIBLE = """
@pytest.fixture
def hangs_before():
    time.sleep(1000)

@pytest.fixture
def hangs_after():
    yield
    time.sleep(1000)

@pytest.fixture
async def waits_after():
    yield
    await asyncio.Event().wait()

async def test_waiting(): await asyncio.Event().wait()

async def test_deaf(): await deaf()

async def test_deaf_task():
    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    assert not task, "what the task has to wait for never comes"

async def test_deaf_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(deaf())

async def test_thread_of_the_loop():
    over = threading.Event()
    threading.Timer(3, over.set).start()
    await asyncio.to_thread(over.wait)

def test_join():
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    thread.join()

def test_pipe(): os.read(os.pipe()[0], 1)

def test_process(): subprocess.run(["sleep", "1000"])

def test_setup(hangs_before): pass

def test_teardown(hangs_after): pass

def test_teardown_after_a_failure(hangs_after): assert False

async def test_asynchronous_teardown(waits_after): pass

def test_that_does_not_hang(): pass
"""
"""Tests that hang and can be interrupted, and a last one."""

UNINTERRUPTIBLE = {
    "C": """
def test_it():
    lock, mutex = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
    lock(mutex)
    lock(mutex)  # holds the interpreter's lock meanwhile
""",
    "swallowed": """
def test_it():
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass
""",
}
"""Tests that can only be killed."""


def run(folder: Path, text: str) -> tuple[int, str]:
    """Run pytest on a file; return how it ended and what it wrote."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text(CONFIGURATION)
    (folder / "test_made_up.py").write_text(HEAD + text)
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", folder],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=100,  # without limits each of them would go on for 1,000 s at least
    )
    return process.returncode, process.stdout


def test_tests_that_hang_fail_and_the_run_goes_on(tmp_path: Path):
    """Each is reported as a failure that names the limit; the last one, which does not, passes."""
    code, output = run(tmp_path, INTERRUPTIBLE)
    assert code == 1, output
    names = re.findall(r"def (test_\w+)", INTERRUPTIBLE)
    reports = output.partition("short test summary info")[2]
    for name in names[:-1]:
        assert re.search(f"::{name} - .*TimedOut: longer than 1 s", reports), output
    assert f"{names[-1]} PASSED" in output


@pytest.mark.parametrize("text", UNINTERRUPTIBLE.values(), ids=UNINTERRUPTIBLE)
def test_a_test_that_cannot_be_interrupted_ends_the_run(tmp_path: Path, text: str):
    """The run is killed; the test is named and its stack shown, and nothing of it lives on."""
    started = "subprocess.Popen([sys.executable, '-c', LEFT])"
    left = "import os, time; open('left', 'w').write(str(os.getpid())); time.sleep(1000)"
    code, output = run(tmp_path, f"LEFT = {left!r}\n{started}\n{text}\ndef test_after(): pass")
    assert code == -9, output
    assert "test_made_up.py::test_it cannot be interrupted" in output.splitlines()[-1]
    assert "in test_it" in output
    assert "test_after" not in output
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(int((tmp_path / "left").read_text()))
        try:
            assert select.select([handle], [], [], 60)[0], "what the run had started lives on"
        finally:
            os.close(handle)


def test_a_thread_that_never_ends_does_not_keep_the_run(tmp_path: Path):
    """The interpreter waits at its end for threads; the watchdog does not."""
    text = "def test_it(): threading.Thread(target=threading.Event().wait).start()"
    code, output = run(tmp_path, text)
    assert code == -9, output
    assert "1 passed" in output
    assert "the end of the run cannot be interrupted" in output
