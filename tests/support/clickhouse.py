"""A ClickHouse server."""

import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.ports import free_port
from support.servers import fetched, serving


CONFIG = """
<yandex>
  <logger><level>warning</level><console>1</console></logger>
  <http_port>{port}</http_port><listen_host>127.0.0.1</listen_host>
  <path>{directory}/data/</path><tmp_path>{directory}/tmp/</tmp_path>
  <users_config>users.xml</users_config>
  <default_profile>default</default_profile><default_database>default</default_database>
  <mark_cache_size>5368709</mark_cache_size>
</yandex>
"""
USERS = """
<yandex>
  <profiles><default><max_memory_usage>1000000000</max_memory_usage></default></profiles>
  <users><default>
    <password></password><networks><ip>::/0</ip></networks>
    <profile>default</profile><quota>default</quota>
  </default></users>
  <quotas><default></default></quotas>
</yandex>
"""


@asynccontextmanager
async def clickhouse(directory: Path) -> AsyncIterator[str]:
    """Run a ClickHouse, and yield its URL."""
    port = free_port()
    (directory / "users.xml").write_text(USERS)
    config = directory / "config.xml"
    config.write_text(CONFIG.format(port=port, directory=directory))
    url = f"http://127.0.0.1:{port}"
    command = ("clickhouse-server", f"--config-file={config}")
    async with serving(command, ready=f"{url}/ping"):
        yield url


async def ask(url: str, query: str) -> str:
    """Return what a query answers."""
    answer = await fetched(f"{url}/", query.encode())
    assert answer is not None, query
    return answer.decode()


def inserting(url: str, table: str) -> str:
    """Return the URL that a sink posts rows to."""
    query = {
        "query": f"INSERT INTO {table} FORMAT JSONEachRow",
        "date_time_input_format": "best_effort",
    }
    return f"{url}/?{urllib.parse.urlencode(query)}"
