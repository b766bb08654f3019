"""A PostgreSQL server, and what is asked of it."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]

from support.ports import free_port
from support.servers import START_SECONDS, Server, dying_with_us, place, serving


PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PASSWORD = "the right one"
USER = "postgres" if os.geteuid() == 0 else None
"""Who runs the server: it refuses to be root."""


@contextmanager
def files() -> Iterator[Path]:
    """Make the files of a server, whose superuser is `virtstatd` with a password."""
    assert PROGRAMS, "PostgreSQL is missing; make test installs it"
    with place(USER) as directory:
        password = directory / "password"
        password.write_text(PASSWORD)
        if USER:
            shutil.chown(password, USER)
        command = [
            str(PROGRAMS[-1] / "initdb"),
            *("--pgdata", str(directory / "data"), "--username=virtstatd", "--no-sync"),
            *(f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
        ]
        subprocess.run(
            dying_with_us(command, USER), stdout=subprocess.DEVNULL, cwd=directory, check=True
        )
        yield directory


@asynccontextmanager
async def database(cluster: Path) -> AsyncIterator[Server]:
    """Run a server with these files."""
    port = free_port()
    command = [
        str(PROGRAMS[-1] / "postgres"),
        *("-D", str(cluster / "data"), "-p", str(port), "-k", str(cluster)),
        *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=8MB"),
        *("-c", "dynamic_shared_memory_type=mmap"),
    ]
    # its own way to crash: a kill would leave shared memory behind
    async with serving(command, port, USER, signal.SIGQUIT) as running:
        await ready(running)
        yield running


def url(server: Server) -> str:
    """Return where the database is."""
    return f"postgresql://virtstatd@127.0.0.1:{server.port}/postgres"


async def ready(server: Server) -> None:
    """Wait until the database has recovered from how it ended."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                await query(server, "SELECT 1")
            except asyncpg.CannotConnectNowError:
                await asyncio.sleep(0.02)
            else:
                return


async def query(server: Server, text: str, *others: str) -> list[asyncpg.Record]:
    """Ask the database, after it has done the others."""
    connection = await asyncpg.connect(url(server), password=PASSWORD)
    try:
        for other in others:
            await connection.execute(other)
        return list(await connection.fetch(text))
    finally:
        await connection.close()


def key_of(labels: str) -> frozenset[tuple[str, str]]:
    """Return labels for comparing: the database has its own order."""
    return frozenset(json.loads(labels).items())


def visible(text: str) -> str:
    """Return a text as the database has it."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\ufffd")
