"""An InfluxDB with a port for datagrams."""

import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.ports import free_port
from support.servers import fetched, serving


CONFIG = """
reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
dir = "{directory}/meta"
[data]
dir = "{directory}/data"
wal-dir = "{directory}/wal"
[monitor]
store-enabled = false
[http]
bind-address = "127.0.0.1:{port}"
[[udp]]
enabled = true
bind-address = "127.0.0.1:{udp}"
database = "udp"
batch-timeout = "20ms"
read-buffer = 4194304
"""


@asynccontextmanager
async def influxdb(directory: Path) -> AsyncIterator[tuple[str, int]]:
    """Run an InfluxDB 1 with two databases; yield its URL and its port for datagrams."""
    port, udp = free_port(), free_port()
    config = directory / "influxdb.conf"
    config.write_text(CONFIG.format(directory=directory, port=port, udp=udp))
    url = f"http://127.0.0.1:{port}"
    async with serving(("influxd", "run", "-config", str(config)), ready=f"{url}/ping"):
        for name in ("virtstatd", "udp"):
            query = urllib.parse.urlencode({"q": f"CREATE DATABASE {name}"})
            assert await fetched(f"{url}/query", query.encode()) is not None
        yield url, udp
