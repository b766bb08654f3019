"""Documents as the agent's API has them, for whatever number of guests."""

from __future__ import annotations

from typing import Any


TIME = "2026-11-26T12:00:00.000Z"
HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "\u202edrow\u2069",
    "zero\u200b\u200d\u2060width",
    "\U0001f600" * 255,
    "a\tb\nc\rd\x07\x9b2J",
    "e\u0301\u0302\u0303" * 20,
    "\u05d0\u05d1\u05d2 12",
    "\u3164\u115f\u2800",
    "<b>&amp;'\"%s{0}",
    "\U0001f468\u200d\U0001f469\U0001f3fd\ufe0f",
    "",
)
"""Names that would move a cursor, turn the order round, or take another width than they seem to."""


def guest_row(index: int, name: str | None = None, **more: Any) -> dict[str, Any]:
    """Return the row of a guest."""
    return {
        "uuid": f"00000000-0000-4000-8000-{index:012d}",
        "name": f"guest-{index:04d}" if name is None else name,
        "state": "running",
        "stuck": False,
        "project": "shop" if index % 2 else None,
        "vcpus": 1 + index % 8,
        "cpu_ratio": (index % 100) / 100,
        "steal_ratio": (index % 13) / 100,
        "steal_peak_ratio": (index % 29) / 100,
        "memory_used_bytes": (1 + index % 7) << 30,
        "memory_max_bytes": 8 << 30,
        "memory_rss_bytes": 3 << 30,
        "disk_read_bytes_per_second": 1.5e6 * index,
        "disk_write_bytes_per_second": 999_950.0,
        "disk_iops": 120.5,
        "disk_latency_seconds": 0.0034 * index,
        "disk_latency_device": "vda",
        "net_receive_bytes_per_second": None,
        "net_transmit_bytes_per_second": 0.0,
        "pressure_cpu_ratio": 0.01,
        "pressure_io_ratio": None,
        "pressure_memory_ratio": 0.0,
        "partition": "/machine",
        "age_seconds": 1.2,
        "findings": 0,
        "severity": "",
        **more,
    }


def guests(rows: list[dict[str, Any]], total: int | None = None) -> dict[str, Any]:
    """Return the document of guests."""
    count = len(rows) if total is None else total
    return {
        "version": 1,
        "time": TIME,
        "total": count,
        "matched": count,
        "columns": [],
        "guests": rows,
    }


def finding(row: dict[str, Any], severity: str = "warning", **more: Any) -> dict[str, Any]:
    """Return a finding of a guest."""
    return {
        "id": f"steal/{row['uuid']}/",
        "finding": "steal",
        "severity": severity,
        "since": "2026-11-26T11:55:00.000Z",
        "guest": {"uuid": row["uuid"], "name": row["name"]},
        "device": None,
        "value": 0.21,
        "threshold": 0.1,
        "unit": "ratio",
        "text": f"vCPUs of {row['name']} waited 21 % of the time for a CPU",
        "advice": "Move a guest away, or give this one a larger share.",
        **more,
    }


def findings(*found: dict[str, Any], recent: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """Return the document of findings."""
    return {"version": 1, "time": TIME, "findings": list(found), "recent": list(recent)}


def host(
    active: int = 3, critical: int = 0, warning: int = 0, *, up: bool = True
) -> dict[str, Any]:
    """Return the document of a host."""
    return {
        "version": 1,
        "time": TIME,
        "host": "hyper1",
        "agent_version": "0.1.0",
        "uri": "qemu:///system",
        "libvirt": {"up": up, "version": "9.0.0", "unresponsive": 0},
        "guests": {"active": active, "running": active, "paused": 0, "stopped": None, "stuck": 0},
        "age_seconds": 1.2,
        "findings": {"critical": critical, "warning": warning},
        "cpu": {"count": 64, "used_ratio": 0.42, "guests_ratio": 0.3, "steal_ratio": 0.012},
        "memory": {
            "total_bytes": 256 << 30,
            "available_bytes": 100 << 30,
            "guests_bytes": 120 << 30,
        },
        "pressure": {"cpu": 0.03, "io": 0.0, "memory": None},
        "disk": {"read_bytes_per_second": 1e6, "write_bytes_per_second": 2e7, "iops": 1234},
        "network": {"receive_bytes_per_second": 1e6, "transmit_bytes_per_second": None},
        "partitions": [],
        "storage_pools": [],
        "networks": [],
    }


def guest(row: dict[str, Any], *found: dict[str, Any]) -> dict[str, Any]:
    """Return the document of one guest, with two devices of each kind and a short history."""
    name = row["name"]
    series = [
        *("cpu_ratio", "steal_ratio", "memory_used_bytes", "disk_read_bytes_per_second"),
        *("disk_iops", "disk_latency_seconds", "net_receive_bytes_per_second"),
    ]
    return {
        "version": 1,
        "time": TIME,
        "guest": row,
        "incarnation": {"id": 7, "since": "2026-11-20T00:00:00.000Z", "pid": 4711},
        "definition": {
            **dict.fromkeys(("autostart", "persistent", "managed_save")),
            **dict.fromkeys(("snapshots", "checkpoints"), 0),
        },
        "host_devices": [],
        "description": {"os": name, "machine": "pc-q35"},
        "vcpus": [
            {"vcpu": str(each), "cpu_ratio": 0.5, "steal_ratio": 0.12, "wait_ratio": None}
            for each in range(2)
        ],
        "memory": {"max_bytes": 8 << 30, "used_bytes": 2 << 30, "available_bytes": None},
        "disks": [
            {
                "device": device,
                "source": f"/var/lib/{name}.qcow2",
                "read_bytes_per_second": 1e6,
                "write_bytes_per_second": None,
                "read_iops": 100,
                "write_iops": 5.5,
                "read_latency_seconds": 0.0012,
                "write_latency_seconds": 0.05,
                "capacity_bytes": 20 << 30,
                "allocation_bytes": 10 << 30,
                "errors_per_second": 0,
                "limits": {"total_iops": 500, "total_bytes_per_second": 1e7},
                "at_limit_ratio": 0.97,
            }
            for device in ("vda", name)
        ],
        "nics": [
            {
                "device": device,
                "receive_bytes_per_second": 1e6,
                "transmit_bytes_per_second": 2e5,
                "receive_packets_per_second": 800,
                "transmit_packets_per_second": 120,
                "receive_drops_per_second": 0,
                "transmit_drops_per_second": 2,
            }
            for device in ("vnet0", name)
        ],
        "findings": list(found),
        "events": [{"time": TIME, "event": "started", "text": f"{name} started"}],
        "history": {
            "begin": 1_700_000_000,
            "step_seconds": 10,
            "series": {key: [None, *(each / 50 for each in range(50))] for key in series},
        },
    }


def agent(*, state: str = "ok", lost: int = 0) -> dict[str, Any]:
    """Return the document of the agent itself, with one sink."""
    return {
        "version": 1,
        "time": TIME,
        "since": "2026-11-20T00:00:00.000Z",
        "cost": {"cpu_seconds_per_second": 0.012, "ratio": 0.0002, "budget_ratio": 0.002},
        "tiers": [
            {
                "name": "pulse",
                "interval_seconds": 10,
                "configured_interval_seconds": 5,
                "age_seconds": 2.0,
                "polls": 1234,
                "skipped": 0,
                "missing": 1,
                "partial": 0,
            }
        ],
        "collectors": [
            {"name": "bulk", "success": True, "duration_seconds": 0.2, "age_seconds": 2.0},
            {"name": "local", "success": None, "duration_seconds": None, "age_seconds": None},
        ],
        "calls": {"outstanding": 0, "abandoned": 0},
        "sinks": [
            {
                "name": "mimir",
                "state": state,
                "waiting_samples": 0,
                "accepted_samples": 1_000_000,
                "delivered_samples": 1_000_000 - lost,
                "dropped_samples": 0,
                "lost_samples": lost,
                "lag_seconds": 0.5,
                "spool_bytes": None,
                "circuit_open": False,
            }
        ],
        "loop_lag_seconds": 0.001,
        "left_out": {"guests": 0, "series": 0, "groups": []},
    }
