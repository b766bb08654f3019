"""Which alerts make others needless, as a real Alertmanager with the shipped example sees it."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

from support.ports import free_port
from support.servers import asked, needs, serving


pytestmark = needs("prometheus-alertmanager", "curl")

FILE = Path(__file__).parents[2] / "config" / "prometheus" / "alertmanager.yml"
SLOW = {"storage_type": "nfs", "storage": "filer:/vms"}
DISK = {"domain": "web", "target_device": "vda"}
FIRING: list[tuple[dict[str, str], bool]] = [
    ({"alertname": "StorageLatency", "instance": "a", "severity": "critical", **SLOW}, True),
    ({"alertname": "StorageLatency", "instance": "a", "severity": "warning", **SLOW}, False),
    ({"alertname": "DiskLatency", "instance": "a", "severity": "warning", **SLOW, **DISK}, False),
    ({"alertname": "DiskLatency", "instance": "b", "severity": "warning", **SLOW, **DISK}, True),
    ({"alertname": "StorageLatency", "instance": "z", "severity": "warning", **SLOW}, True),
    ({"alertname": "DiskAtLimit", "instance": "c", "severity": "warning", **DISK}, True),
    ({"alertname": "DiskLatency", "instance": "c", "severity": "warning", **DISK}, False),
    ({"alertname": "HostStealsFromGuests", "instance": "d", "severity": "critical"}, True),
    ({"alertname": "GuestSteal", "instance": "d", "domain": "web", "severity": "critical"}, False),
    (
        {"alertname": "GuestStealStorms", "instance": "e", "domain": "x", "severity": "warning"},
        True,
    ),
    ({"alertname": "GuestCpuLimited", "instance": "e", "domain": "y", "severity": "warning"}, True),
    ({"alertname": "GuestStealPeak", "instance": "e", "domain": "y", "severity": "warning"}, False),
    ({"alertname": "LibvirtDown", "instance": "f", "severity": "critical"}, True),
    ({"alertname": "GuestStuck", "instance": "f", "domain": "web", "severity": "critical"}, False),
    ({"alertname": "PollLate", "instance": "f", "tier": "pulse", "severity": "warning"}, False),
    ({"alertname": "GuestStuck", "instance": "g", "domain": "web", "severity": "critical"}, True),
    ({"alertname": "GuestMemoryStale", "instance": "g", "domain": "web", "severity": "x"}, False),
    ({"alertname": "GuestMemoryStale", "instance": "g", "domain": "other", "severity": "x"}, True),
]
"""Alerts, and whether each is sent beside the others."""


async def post(url: str, body: Any) -> None:
    """Send JSON, which must be taken."""
    command = ("curl", "-sSf", "-H", "Content-Type: application/json", "-d", json.dumps(body), url)
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0


async def test_a_storage_comes_before_its_guests_and_what_is_critical_before_a_warning(
    tmp_path: Path,
):
    """
    Of a cause and its consequences only the cause is sent, and consequences elsewhere still are.

    The storage of two hosts is one message.
    """
    url = f"http://127.0.0.1:{free_port()}"
    command = (
        "prometheus-alertmanager",
        f"--config.file={FILE}",
        f"--storage.path={tmp_path}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    )
    async with serving(command, ready=f"{url}/-/ready"):
        await post(f"{url}/api/v2/alerts", [{"labels": labels} for labels, _ in FIRING])
        async with asyncio.timeout(60):
            while True:
                alerts = await asked(f"{url}/api/v2/alerts")
                held = [each["labels"] for each in alerts if each["status"]["inhibitedBy"]]
                if len(alerts) == len(FIRING) and len(held) == sum(not sent for _, sent in FIRING):
                    break
                await asyncio.sleep(0.2)
        groups = await asked(f"{url}/api/v2/alerts/groups")
    key = partial(json.dumps, sort_keys=True)
    assert sorted(map(key, held)) == sorted(key(of) for of, sent in FIRING if not sent)
    slow = [each for each in groups if each["labels"] == {"alertname": "StorageLatency", **SLOW}]
    assert [len(each["alerts"]) for each in slow] == [3]
