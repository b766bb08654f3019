"""A carbon cache, and what its files hold."""

import asyncio
import platform
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.ports import free_port
from support.servers import Server, place, serving
from virtstatd.formats.words import word
from virtstatd.model import Labels, Reading


CONFIG = """
[cache]
STORAGE_DIR = {place}
LOCAL_DATA_DIR = {place}/whisper
LOG_DIR = {place}
PID_DIR = {place}
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {port}
PICKLE_RECEIVER_PORT = 0
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = {query_port}
MAX_UPDATES_PER_SECOND = inf
MAX_CREATES_PER_MINUTE = inf
CARBON_METRIC_INTERVAL = 0
WHISPER_FALLOCATE_CREATE = False
ENABLE_TAGS = False
"""
SCHEMAS = "[all]\npattern = .*\nretentions = 1s:120s\n"


@asynccontextmanager
async def carbon() -> AsyncIterator[tuple[Server, Path]]:
    """Run a carbon-cache, and yield it with the directory of its files."""
    with place() as directory:
        port = free_port()
        config = directory / "carbon.conf"
        config.write_text(CONFIG.format(place=directory, port=port, query_port=free_port()))
        (directory / "storage-schemas.conf").write_text(SCHEMAS)
        command = ["carbon-cache", f"--config={config}", "--nodaemon", "start"]
        async with serving(command, port) as server:
            yield server, directory / "whisper"


def newest(path: Path) -> tuple[int, float]:
    """Return the newest time and value of a whisper file, as its format is documented."""
    content = path.read_bytes()
    *_, archives = struct.unpack_from("!2LfL", content)
    assert archives == 1
    offset, _, points = struct.unpack_from("!3L", content, 16)
    return max(struct.unpack_from("!Ld", content, offset + 12 * each) for each in range(points))


def kept(directory: Path) -> dict[str, tuple[int, float]]:
    """Return the newest of every file by its path."""
    files = list(directory.rglob("*.wsp"))
    return {str(each.relative_to(directory)): newest(each) for each in files if whole(each)}


def whole(path: Path) -> bool:
    """Whether the file has its full length."""
    return path.stat().st_size == 28 + 12 * 120


async def stored(directory: Path, count: int) -> dict[str, tuple[int, float]]:
    """Return what is in every file once there are so many; a file is filled after it is made."""
    async with asyncio.timeout(100):
        while True:
            found = kept(directory)
            if len(found) >= count and all(moment for moment, _ in found.values()):
                return found
            await asyncio.sleep(0.1)


def plain(reading: Reading, name: str, labels: Labels) -> str:
    """Return the file that carbon keeps a plain path in."""

    def short(text: str) -> str:
        whole = word(text)
        return whole if len(whole) < 200 else f"{whole[:191]}~{zlib.crc32(whole.encode()):08x}"

    own = labels[len(reading.domain.labels) :] if reading.domain else labels
    where = ["domain", short(reading.domain.name)] if reading.domain else ["host"]
    words = [short(platform.node()), *where, name, *(short(text) for _, text in own)]
    return f"virtstatd/{'/'.join(words)}.wsp"
