"""Real servers for sinks to send to: on a free port of the loopback, gone with their test."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path


START_SECONDS = 60.0
END_SECONDS = 10.0


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def dying_with_us(command: Sequence[str], user: str | None = None) -> list[str]:
    """Return what runs a command, as another user if wanted, and kills it when pytest dies."""
    other = [f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    return ["setpriv", *other, "--pdeathsig", "KILL", *command]


class Server:
    """A process that listens at a port, and can be killed, started again and frozen."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        user: str | None = None,
        end: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.command = command
        self.port = port
        self.user = user
        self.end = end
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start, and wait until it listens."""
        self.process = await asyncio.create_subprocess_exec(
            *dying_with_us(self.command, self.user),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(START_SECONDS):
            while not await self._listens():
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
    async def away(self) -> AsyncIterator[None]:
        """Be gone for a while."""
        await self.stop()
        try:
            yield
        finally:
            await self.start()

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[None]:
        """Be frozen for a while."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.transport.abort()
        return True


@asynccontextmanager
async def serving(
    command: Sequence[str],
    port: int,
    user: str | None = None,
    end: signal.Signals = signal.SIGKILL,
) -> AsyncIterator[Server]:
    """Run a server for as long as the block lasts."""
    server = Server(command, port, user, end)
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
