"""The textfile sink, read by node_exporter."""

import math
import stat
from pathlib import Path

import pytest

from support.expectations import numbers
from support.node_exporter import collected, key_of
from support.servers import free_port, moved, needs, serving
from virtstatd.errors import StartError, TryLater
from virtstatd.model import Batch
from virtstatd.sinks.textfile import Textfile
from virtstatd.testing import check_sink, hostile_batch, make_batch
from virtstatd.testing.contract import opening


def of_guests(batch: Batch) -> Batch:
    """Leave out the host's own: to a collector an empty label and none are the same."""
    return Batch(batch.source, 0, tuple(each for each in batch.readings if each.domain))


@needs("prometheus-node-exporter")
@pytest.mark.parametrize("batch", [make_batch(3), hostile_batch()], ids=["plain", "hostile"])
async def test_node_exporter_shows_every_number(tmp_path: Path, batch: Batch):
    """Node_exporter shows every number and label as it was, and forgets guests that are gone."""
    batch = of_guests(batch)
    port = free_port()
    command = [
        "prometheus-node-exporter",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={tmp_path}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with (
        serving(command, port),
        Textfile(path=str(tmp_path / "v.prom")).open(opening()) as send,
    ):
        await send(batch)
        found = await collected(port)
        wanted = {key_of(name, labels): value for _, name, labels, value in numbers(batch)}
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert found[key] == value or (math.isnan(found[key]) and math.isnan(value))
        await send(
            Batch(
                "bulk", 0, (), gone=tuple({each.domain for each in batch.readings if each.domain})
            )
        )
        assert await collected(port) == {}


async def test_contract_when_the_directory_comes_and_goes(tmp_path: Path):
    """The sink keeps the contract when its directory comes and goes, and leaves no file behind."""
    directory = tmp_path / "collector"
    directory.mkdir()

    sink = Textfile(path=str(directory / "v.prom"))
    async with sink.open(opening()) as send:
        async with moved(directory):
            with pytest.raises(TryLater, match="No such file"):
                await send(make_batch(1))
        await send(make_batch(1))
        assert stat.S_IMODE((directory / "v.prom").stat().st_mode) == 0o644
        assert [each.name for each in directory.iterdir()] == ["v.prom"]
    assert list(directory.iterdir()) == []

    async def written() -> object:
        found = [each.stat() for each in directory.iterdir()]
        return [(each.st_ino, each.st_mtime_ns) for each in found]

    await check_sink(lambda: sink, received=written)
    assert list(directory.iterdir()) == []


async def test_readers_never_see_half_a_page(tmp_path: Path):
    """Whoever opened the file before a new page reads the old one to its end."""
    path = tmp_path / "v.prom"
    async with Textfile(path=str(path)).open(opening()) as send:
        await send(make_batch(50))
        whole = path.read_bytes()
        with path.open("rb") as file:
            start = file.read(10)
            await send(make_batch(1, base=7000))
            assert start + file.read() == whole
        assert path.read_bytes() != whole


async def test_a_link_in_place_of_the_draft_is_not_followed(tmp_path: Path):
    """What somebody has linked to the name of the draft is not written through."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".v.prom.new").symlink_to(victim)
    async with Textfile(path=str(tmp_path / "v.prom")).open(opening()) as send:
        with pytest.raises(TryLater):
            await send(make_batch(1))
        await send(make_batch(1))
    assert victim.read_text() == "mine"


async def test_a_directory_that_is_not_there_is_told_at_the_start(tmp_path: Path):
    """Without its directory the sink does not open, and says what to create."""
    with pytest.raises(StartError, match=r"create .*nowhere"):
        async with Textfile(path=str(tmp_path / "nowhere" / "v.prom")).open(opening()):
            pass


@pytest.mark.parametrize("path", ["v.prom", "/tmp/v.txt", "", "/tmp/\0.prom"])
def test_paths_that_no_collector_reads(path: str):
    """A path that is not absolute, or that no collector reads, is refused."""
    with pytest.raises(ValueError, match=r"path: must be absolute and end in \.prom"):
        Textfile(path=path)
