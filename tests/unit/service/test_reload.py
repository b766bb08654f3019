"""What one run hands over to the next one, and which configuration that one takes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from virtstatd.commands.cli import to_run
from virtstatd.config.file import load_text
from virtstatd.service.reload import HANDED_OVER, ConfigText, HandedOver, handed_over


FORMER = ConfigText(Path("/etc/former.toml"), "[hypervisor]\nlanes = 1\n")
GOOD = ConfigText(Path("/etc/good.toml"), "[hypervisor]\nlanes = 3\n")
BAD = ConfigText(None, "[hypervisor]\nlanes = 9\n")


def hand_over(given: HandedOver) -> int:
    """Put it into a file without a name, as a run does before it executes the next."""
    number = os.memfd_create("test")
    os.write(number, msgspec.json.encode(given, enc_hook=str))
    return number


@pytest.mark.parametrize("accepted", [GOOD, BAD, None])
def test_what_is_handed_over_arrives_once(accepted: ConfigText | None) -> None:
    """Texts and paths arrive as they were; neither descriptor nor variable stays behind."""
    given = HandedOver(FORMER, accepted)
    number = hand_over(given)
    environ = {HANDED_OVER: f"{os.getpid()}:{number}", "other": "stays"}
    assert handed_over(environ) == given
    assert environ == {"other": "stays"}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    assert handed_over(environ) is None


def test_another_process_takes_nothing() -> None:
    """A child that inherits the variable is not the next run."""
    environ = {HANDED_OVER: f"{os.getppid()}:1"}
    assert handed_over(environ) is None
    assert not environ


def test_the_accepted_configuration_runs_else_the_former(tmp_path: Path) -> None:
    """One that can no longer be read is reported, and the one before it runs in its place."""
    file = tmp_path / "v.toml"
    file.write_text("[hypervisor]\nlanes = 2\n")
    assert to_run(file, None) == (load_text(file.read_text(), file), [])
    assert to_run(file, HandedOver(FORMER, GOOD)) == (GOOD.loaded(), [])
    assert to_run(file, HandedOver(FORMER, None)) == (FORMER.loaded(), [])
    running, faults = to_run(file, HandedOver(FORMER, BAD))
    assert (running, running.path) == (FORMER.loaded(), FORMER.path)
    assert faults == ["defaults:2: hypervisor.lanes: must be at most 3, is 9"]
