"""Commands that run for long or often, beside a host in trouble, load little."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["top.command", "status"])
def test_asking_an_agent_needs_nothing_of_libvirt(command: str):
    """A command that asks over the API loads neither libvirt nor a loop, nor the agent's parts."""
    loaded = (
        f"import sys, virtstatd.commands.{command};"
        "print(*sorted({'libvirt', 'asyncio', 'aiohttp', 'msgspec', 'structlog', 'uvloop',"
        " 'virtstatd.config.file', 'virtstatd.service'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"
