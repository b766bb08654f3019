"""Real servers to send to and to ask: on a free port of the loopback, gone with their test."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest


START_SECONDS = 150.0
END_SECONDS = 100.0


def needs(*programs: str) -> pytest.MarkDecorator:
    """Have a test fail with a clear message where a program is not installed."""
    return pytest.mark.needs(*programs)


def dying_with_us(command: Sequence[str], user: str | None = None) -> list[str]:
    """Return what runs a command, as another user if wanted, and kills it when pytest dies."""
    other = [f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    return ["setpriv", *other, "--pdeathsig", "KILL", *command]


class Moody(ABC):
    """A server that can be gone for a while, and silent where it waits for `speaking`."""

    speaking: asyncio.Event | threading.Event

    @abstractmethod
    async def start(self) -> None:
        """Listen, at the same place as before."""

    @abstractmethod
    async def stop(self) -> None:
        """Cut all connections and listen no more."""

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Be gone for a while."""
        await self.stop()
        try:
            yield
        finally:
            await self.start()

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[None]:
        """Accept, and never answer."""
        self.speaking.clear()
        try:
            yield
        finally:
            self.speaking.set()


class Server(Moody):
    """
    A process that can be killed, started again and frozen.

    It is ready when it listens at its port or, where that is not enough, when the URL `ready` can
    be fetched.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int = 0,
        user: str | None = None,
        end: signal.Signals = signal.SIGKILL,
        ready: str = "",
    ) -> None:
        self.command = command
        self.port = port
        self.user = user
        self.end = end
        self.ready = ready
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start, and wait until it is ready."""
        self.process = await asyncio.create_subprocess_exec(
            *dying_with_us(self.command, self.user),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(START_SECONDS):
            while not await self._is_ready():
                assert self.process.returncode is None, f"{self.command} has ended"
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Have it end, and wait for that."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.send_signal(self.end)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[None]:
        """Be frozen for a while."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def _is_ready(self) -> bool:
        if self.ready:
            return await fetched(self.ready) is not None
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.transport.abort()
        return True


@asynccontextmanager
async def serving(
    command: Sequence[str],
    port: int = 0,
    user: str | None = None,
    end: signal.Signals = signal.SIGKILL,
    ready: str = "",
) -> AsyncIterator[Server]:
    """Run a server for as long as the block lasts."""
    server = Server(command, port, user, end, ready)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


@contextmanager
def place(user: str | None = None) -> Iterator[Path]:
    """Yield a directory that a server's user reaches, and remove it with all that is in it."""
    path = Path(tempfile.mkdtemp(prefix="virtstatd-server-"))
    try:
        path.chmod(0o755)
        if user and os.geteuid() == 0:
            shutil.chown(path, user, user)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def moved(directory: Path) -> AsyncIterator[None]:
    """Have a directory be elsewhere for a while."""
    elsewhere = directory.with_name("elsewhere")
    shutil.move(directory, elsewhere)
    try:
        yield
    finally:
        shutil.move(elsewhere, directory)


async def fetched(url: str, data: bytes | None = None) -> bytes | None:
    """Return what a URL gives, None when it gives nothing."""

    def fetch() -> bytes | None:
        try:
            with urllib.request.urlopen(url, data, timeout=100) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            error.close()
            return None
        except OSError:
            return None

    return await asyncio.to_thread(fetch)


async def asked(url: str, **parameters: str) -> Any:
    """Ask an API with a query, and return its JSON."""
    answer = await fetched(f"{url}?{urllib.parse.urlencode(parameters)}")
    assert answer is not None, url
    return json.loads(answer)
