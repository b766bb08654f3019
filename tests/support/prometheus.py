"""Servers that take remote write: Prometheus and VictoriaMetrics."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.ports import free_port
from support.servers import serving


def prometheus_command(directory: Path, url: str) -> tuple[str, ...]:
    """Return what runs a Prometheus that receives."""
    (directory / "prometheus.yml").touch()
    return (
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--web.enable-remote-write-receiver",
    )


@asynccontextmanager
async def prometheus(directory: Path) -> AsyncIterator[str]:
    """Run a Prometheus that receives."""
    url = f"http://127.0.0.1:{free_port()}"
    async with serving(prometheus_command(directory, url), ready=f"{url}/-/ready"):
        yield url


@asynccontextmanager
async def victoria(directory: Path) -> AsyncIterator[str]:
    """Run a VictoriaMetrics."""
    url = f"http://127.0.0.1:{free_port()}"
    command = (
        "victoria-metrics",
        f"-storageDataPath={directory / 'data'}",
        f"-httpListenAddr={url.removeprefix('http://')}",
        "-search.latencyOffset=0s",
        "-search.disableCache",
        "-memory.allowedBytes=64MB",
    )
    async with serving(command, ready=f"{url}/health"):
        yield url
