"""Real servers of other projects, from Debian's packages, that are written to and asked."""

import asyncio
import json
import shutil
import signal
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest


def needs(program: str) -> pytest.MarkDecorator:
    """Skip a test where a program is not installed."""
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed")


def free_port() -> int:
    """Return a port that nobody has right now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@asynccontextmanager
async def running(command: Sequence[str], ready: str) -> AsyncIterator[None]:
    """Run a server until the block ends; its block begins when `ready` can be fetched."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            while await fetched(ready) is None:
                assert process.returncode is None, f"{command[0]} ended: {process.returncode}"
                await asyncio.sleep(0.05)
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def fetched(url: str, data: bytes | None = None) -> bytes | None:
    """Return what a URL gives, None when it gives nothing."""

    def fetch() -> bytes | None:
        try:
            with urllib.request.urlopen(url, data, timeout=10) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            error.close()
            return None
        except OSError:
            return None

    return await asyncio.to_thread(fetch)


async def asked(url: str, **parameters: str) -> object:
    """Ask an API with a query, and return its JSON."""
    answer = await fetched(f"{url}?{urllib.parse.urlencode(parameters)}")
    assert answer is not None, url
    return json.loads(answer)
