"""A host of any count of guests, with any names and faults, as documents of the API."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from virtstatd.insight.columns import COLUMNS
from virtstatd.insight.findings import (
    DISK_LATENCY,
    DISK_LIMITED,
    LIBVIRT_DOWN,
    MEMORY_LOW,
    STEAL,
    STUCK,
    FindingKind,
)
from virtstatd.insight.history import DISK_SERIES, GUEST_SERIES
from virtstatd.insight.judge import Finding
from virtstatd.insight.kinds import kind_documents
from virtstatd.insight.wording import Subject
from virtstatd.model import Domain


BEGIN = 1_790_000_600
"""Unix seconds at which these hosts begin."""

MIB, GIB = 1 << 20, 1 << 30
STARTED = "2026-11-20T08:12:44.000Z"

HURTING = {1: DISK_LIMITED, 3: DISK_LATENCY, 5: STEAL, 9: MEMORY_LOW}
"""What hurts some of each eleven guests, by their place among them."""

FULL_WAVE = 0.96
"""How full the memory is of a guest that hurts."""

RATE_LIMIT, IOPS_LIMIT = 50 * MIB, 1000
LIMITS = {"total_bytes_per_second": RATE_LIMIT, "total_iops": IOPS_LIMIT}
"""What the first disk of each guest may do."""

Document = dict[str, Any]


class MadeUpHost:
    """A host of `count` guests whose numbers move with `second`; tests change it as they like."""

    def __init__(self, count: int, names: Mapping[int, str] | None = None) -> None:
        self.count = count
        self.names = dict(names or {})
        self.second = 0
        self.stuck: set[int] = {7} if count > 7 else set()
        self.vcpus: dict[int, int] = {}
        self.kinds = {each["finding"]: each for each in kind_documents()}
        self.up = True
        self.with_pools = False
        self.status = HTTPStatus.OK
        self.viewers = 0
        self.views: list[dict[str, str]] = []
        self._moved = asyncio.Event()

    def move(self, seconds: int = 1) -> None:
        """Have time pass, and every stream send what is new."""
        self.second += seconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def moved(self) -> None:
        """Wait for the next move."""
        await self._moved.wait()

    def uuid(self, index: int) -> str:
        """Return the identity of a guest."""
        return str(uuid.UUID(int=0xA_0000_0000_4000_8000_0000_0000_0000 + index))

    def name(self, index: int) -> str:
        """Return the name of a guest."""
        kinds = ("web", "db", "mail", "build", "cache", "edge")
        return self.names.get(index, f"{kinds[index % 6]}-{index // 6 + 1:02}")

    def wave(self, seed: float, second: int | None = None) -> float:
        """Return a number from 0 to 1 that moves slowly."""
        at = (self.second if second is None else second) + seed * 137
        waves = ((0.24, 797), (0.14, 211), (0.06, 59), (0.03, 2.3))
        return 0.5 + sum(size * math.sin(at / period + seed) for size, period in waves)

    def versioned(self, more: Document) -> Document:
        """Return a document with what all have."""
        now = datetime.fromtimestamp(BEGIN + self.second, UTC)
        stamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"version": 1, "time": stamp, **more}

    def history(self, series: Mapping[str, tuple[float, float]]) -> Document:
        """Return the last hour of series, each with its seed and its greatest value."""
        steps = range(self.second - 3590, self.second + 1, 10)
        return {
            "begin": BEGIN + steps[0],
            "step_seconds": 10,
            "series": {
                name: [self.wave(seed, step) * top for step in steps]
                for name, (seed, top) in series.items()
            },
        }

    def host(self, *, history: bool = False) -> Document:
        """Return the document of the host."""
        n = self.count
        series = {
            "cpu.used_ratio": (1, 0.7),
            "cpu.guests_ratio": (1, 0.6),
            "cpu.steal_ratio": (3, 0.08),
            "memory.available_bytes": (4, 96 * GIB),
            "pressure.cpu": (5, 0.22),
            "pressure.io": (6, 0.09),
            "pressure.memory": (7, 0.01),
            "disk.read_bytes_per_second": (8, 240 * MIB),
            "disk.write_bytes_per_second": (9, 90 * MIB),
            "network.receive_bytes_per_second": (10, 60 * MIB),
            "network.transmit_bytes_per_second": (11, 130 * MIB),
        }
        now: Document = {}
        for name, (seed, top) in series.items():
            table, key = name.split(".")
            now.setdefault(table, {})[key] = self.wave(seed) * top if self.up else None
        now["memory"] |= {"total_bytes": 256 * GIB, "guests_bytes": 150 * GIB * bool(n)}
        judged = [each["severity"] for each in self.findings()["findings"]]
        document = {
            "host": "kvm-17.example.net",
            "agent_version": "0.1.0",
            "uri": "qemu:///system",
            "libvirt": {"up": self.up, "version": "9.0.0" if self.up else None, "unresponsive": 0},
            "guests": {
                "active": n,
                "running": max(0, n - n // 12),
                "paused": n // 12,
                "stopped": 3 if n else 0,
                "stuck": len(self.stuck),
            },
            "age_seconds": 1.2 if self.up else 154.0,
            "findings": {each: judged.count(each) for each in ("critical", "warning")},
            **now,
        }
        document["cpu"]["count"] = 64
        document["disk"]["iops"] = 4210.5
        if history:
            document["history"] = self.history(series)
            document["partitions"] = self.partitions()
        document["storage_pools"] = self.pools()
        document["networks"] = self.networks()
        return self.versioned(document)

    def pools(self) -> list[Document]:
        """Return a pool with space, one that is nearly full, and one that hangs."""
        if not self.with_pools:
            return []
        sizes = ("capacity_bytes", "allocation_bytes", "available_bytes", "available_ratio")
        texts = ("state", "type", "source", "volumes", "volumes_in_use")
        unknown = dict.fromkeys([*sizes, *texts])
        rows: list[Document] = [{**unknown, "name": "nfs<i>", "hangs": True}]
        for name, left in (("fast", 0.4), ("old", 0.05)):
            free = round(left * 100 * GIB)
            row = {
                "name": name,
                "state": "running",
                "type": "dir",
                "hangs": False,
                "capacity_bytes": 100 * GIB,
                "allocation_bytes": 100 * GIB - free,
                "available_bytes": free,
                "available_ratio": left,
                "volumes": 40,
                "volumes_in_use": 31,
            }
            rows.append({**unknown, **row})
        return rows

    def networks(self) -> list[Document]:
        """Return a network that is active, and one that is not."""
        return [
            {"name": name, "active": active, "bridge": "virbr0", "forward": "nat", "ports": 3}
            for name, active in (("default", True), ("lab<b>", False))
            if self.with_pools
        ]

    def partitions(self) -> list[Document]:
        """Return a tree of four partitions, the first one the sum of the others."""
        if not self.count:
            return []
        inner = [
            self.partition(index, name) for index, name in enumerate(("gold", "silver", "lab"))
        ]
        sums = {
            key: sum(each[key] for each in inner) for key in ("guests", "cpu_ratio", "memory_bytes")
        }
        limits = {"cpu_limit_ratio": None, "throttled_ratio": None, "memory_limit_bytes": None}
        return [{**inner[0], "path": "/machine", "depth": 0, **limits, **sums}, *inner]

    def partition(self, index: int, name: str) -> Document:
        """Return a partition, with limits unless it is the first."""
        return {
            "path": f"/machine/{name}",
            "depth": 1,
            "guests": len(range(index, self.count, 3)),
            "cpu_ratio": self.wave(index) * 0.25,
            "cpu_limit_ratio": 0.3 if index else None,
            "throttled_ratio": self.wave(index) * 0.1 if index else None,
            "memory_bytes": int(self.wave(index) * 90 * GIB),
            "memory_limit_bytes": 96 * GIB if index else None,
            "pressure_cpu": self.wave(index) * 0.1,
            "pressure_io": self.wave(index + 1) * 0.1,
            "pressure_memory": 0.0,
        }

    def hurts(self, index: int) -> FindingKind | None:
        """Return what hurts a guest."""
        if index in self.stuck:
            return STUCK
        return None if self.is_paused(index) else HURTING.get(index % 11)

    def vcpus_of(self, index: int) -> int:
        """Return how many vCPUs a guest has."""
        return self.vcpus.get(index, 1 << index % 5)

    def is_paused(self, index: int) -> bool:
        """Tell whether a guest is paused."""
        return index % 12 == 11

    def steal(self, index: int) -> float:
        """Return the steal of a guest, one that hurts above the threshold at any time."""
        wave = self.wave(index)
        if index in self.stuck:
            return 0.0
        return 0.11 + wave * 0.15 if self.hurts(index) is STEAL else wave * 0.06

    def latency(self, index: int) -> float:
        """Return the latency of the slowest disk of a guest, as for steal."""
        wave = self.wave(index)
        return 0.055 + wave * 0.05 if self.hurts(index) is DISK_LATENCY else wave * 0.004

    def disk_share(self, index: int) -> float:
        """Return how near the first disk of a guest is to its limit, as for steal."""
        wave = self.wave(index)
        return 0.97 + wave * 0.03 if self.hurts(index) is DISK_LIMITED else wave * 0.75

    def row(self, index: int) -> Document:
        """Return the row of a guest; of one that is stuck libvirt knows what needs no monitor."""
        stuck, paused = index in self.stuck, self.is_paused(index)
        wave, disk = self.wave(index), self.disk_share(index)
        known = None if paused else int(not stuck)
        answers = None if paused or stuck else 1
        hurts = self.hurts(index)
        memory = (2 << index % 5) * GIB
        used = FULL_WAVE if hurts is MEMORY_LOW else 0.2 + wave * 0.4
        return {
            "uuid": self.uuid(index),
            "name": self.name(index),
            "state": "paused" if paused else "running",
            "stuck": stuck,
            "project": f"team-{index % 4}" if index % 5 else None,
            "vcpus": self.vcpus_of(index),
            "cpu_ratio": known and wave * 0.8,
            "steal_ratio": known and self.steal(index),
            "steal_peak_ratio": known and min(0.45, self.steal(index) * 1.8),
            "memory_used_bytes": answers and int(used * memory),
            "memory_cache_bytes": answers and int((0.97 - used) * 0.6 * memory),
            "memory_unused_bytes": answers and int((0.97 - used) * 0.4 * memory),
            "memory_current_bytes": memory,
            "memory_max_bytes": memory,
            "memory_rss_bytes": int(memory * (0.6 + used * 0.3)),
            "disk_read_bytes_per_second": answers and disk * RATE_LIMIT * 0.8,
            "disk_write_bytes_per_second": answers and disk * RATE_LIMIT * 0.2,
            "disk_iops": answers and disk * IOPS_LIMIT * 0.9,
            "disk_latency_seconds": answers and self.latency(index),
            "disk_latency_device": answers and "vda",
            "net_receive_bytes_per_second": known and wave * 2 * MIB,
            "net_transmit_bytes_per_second": known and wave * 6 * MIB,
            "pressure_cpu_ratio": known and self.steal(index) * 1.2,
            "pressure_io_ratio": known and wave * 0.05,
            "pressure_memory_ratio": known and 0.0,
            "partition": "/machine/gold" if index % 3 else "/machine/silver",
            "age_seconds": 1.0 + index % 4,
            "findings": 1 if hurts else 0,
            "severity": "critical" if stuck else "warning" if hurts else "",
        }

    def guests(self, query: Mapping[str, str]) -> Document:
        """Return rows, filtered by a part of the name and sorted by one column."""
        rows = [self.row(index) for index in range(self.count)]
        words = query.get("filter", "")
        if words.startswith("steal>"):
            rows = [each for each in rows if (each["steal_ratio"] or 0) * 100 > float(words[6:])]
        elif "=" in words:
            raise ValueError(f"{words}: no such word; known are name, steal>N, project:NAME")
        else:
            rows = [each for each in rows if words in each["name"]]
        key = query.get("sort", "").lstrip("-")
        severities = {"critical": 2, "warning": 1, "": 0}
        if key:
            present = [each for each in rows if each[key] is not None]
            present.sort(key=lambda each: each[key], reverse=query["sort"].startswith("-"))
            rows = present + [each for each in rows if each[key] is None]
        else:
            rows.sort(key=lambda each: -severities[each["severity"]])
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 0)) or len(rows)
        window = rows[offset : offset + limit]
        return self.versioned(
            {
                "total": self.count,
                "matched": len(rows),
                "columns": self.columns(),
                "guests": window,
            }
        )

    def columns(self) -> list[Document]:
        """Return the columns, as the agent has them."""
        return [
            {
                "id": each.id,
                "title": each.title,
                "unit": each.unit,
                "help": each.help,
                "finding": each.finding or None,
            }
            for each in COLUMNS
        ]

    def guest(self, index: int, *, history: bool = False) -> Document:
        """Return the document of a guest."""
        row, wave = self.row(index), self.wave(index)
        known = None if row["cpu_ratio"] is None else int(not row["stuck"])
        answers = None if row["disk_iops"] is None else 1
        steal = row["steal_ratio"]
        document: Document = {
            "guest": row,
            "incarnation": {"id": 12, "since": None, "started": STARTED, "pid": 4711},
            "definition": {
                **dict.fromkeys(("autostart", "persistent", "managed_save")),
                **dict.fromkeys(("snapshots", "checkpoints"), 0),
            },
            "host_devices": [],
            "description": {
                "Title": "Shop, front end",
                "Machine": "pc-q35-7.2",
                "Flavour": "m1.large",
                "Firmware": "EFI",
            },
            "vcpus": [
                {
                    "vcpu": str(each),
                    "cpu_ratio": known and self.wave(index + each) * 0.9,
                    "steal_ratio": known and steal * (0.5 + self.wave(index + each + 3)),
                    "wait_ratio": known and self.wave(index + each + 5) * 0.1,
                    "current_cpu": (index + each) % 32,
                    "affinity_cpus": 32,
                    "affinity": "0-31",
                }
                for each in range(self.vcpus_of(index))
            ],
            "memory": {
                "max_bytes": row["memory_max_bytes"],
                "current_bytes": row["memory_max_bytes"],
                "used_bytes": row["memory_used_bytes"],
                "available_bytes": row["memory_max_bytes"],
                "unused_bytes": row["memory_unused_bytes"],
                "usable_bytes": answers and row["memory_unused_bytes"] + row["memory_cache_bytes"],
                "cache_bytes": row["memory_cache_bytes"],
                "swap_in_bytes_per_second": answers and 0.0,
                "swap_out_bytes_per_second": answers and 0.0,
                "rss_bytes": row["memory_rss_bytes"],
                "huge_pages_bytes": 0,
                "numa_nodes": [{"node": "0", "bytes": row["memory_rss_bytes"]}],
            },
            "disks": [self.disk(index, device, answers) for device in ("vda", "vdb")],
            "nics": [
                {
                    "device": "vnet5",
                    "source": "br0",
                    "source_type": "bridge",
                    "mac_address": "52:54:00:12:34:56",
                    "model": "virtio",
                    "vlan": None,
                    "limits": {"receive_average_bytes_per_second": 125 * MIB},
                    "receive_bytes_per_second": known and wave * 2 * MIB,
                    "transmit_bytes_per_second": known and wave * 6 * MIB,
                    "receive_packets_per_second": known and wave * 2100,
                    "transmit_packets_per_second": known and wave * 1400,
                    "receive_drops_per_second": 0.0,
                    "transmit_drops_per_second": 0.5,
                    "receive_errors_per_second": 0.0,
                    "transmit_errors_per_second": 0.0,
                }
            ],
            "findings": [
                each
                for each in self.findings()["findings"]
                if each["guest"] and each["guest"]["uuid"] == row["uuid"]
            ],
            "events": [
                {"time": "2026-11-20T08:12:44.000Z", "event": "started", "text": "Guest started"},
                {
                    "time": "2026-11-26T20:03:02.000Z",
                    "event": "responsive",
                    "text": "Answers again",
                },
            ],
        }
        if history:
            document["history"] = self.past(index)
        return self.versioned(document)

    def past(self, index: int) -> Document:
        """Return the last hour of a guest and its disks: what its row and they were."""
        second = self.second
        times = range(second - 3590, second + 1, 10)
        rows, disks = [], []
        for self.second in times:
            rows.append(self.row(index))
            disks.append([self.disk(index, device, 1) for device in ("vda", "vdb")])
        self.second = second
        return {
            "begin": BEGIN + times[0],
            "step_seconds": 10,
            "series": {name: [row[name] for row in rows] for name in GUEST_SERIES},
            "disks": {
                of[0]["device"]: {name: [each[name] for each in of] for name in DISK_SERIES}
                for of in zip(*disks, strict=True)
            },
        }

    def disk(self, index: int, device: str, known: int | None) -> Document:
        """Return a disk, with limits, a histogram and what hurts where it is the first."""
        first = device == "vda"
        share = self.disk_share(index) if first else self.wave(index + 5) * 0.3
        latency = self.latency(index) if first else self.wave(index + 5) * 0.003
        counts = (3, 44, 304, 2104, 7304, 8234, 8278, 8280)
        edges = (0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.02, 0.1, None)
        bars = [{"le": le, "count": count} for le, count in zip(edges, counts, strict=True)]
        return {
            "device": device,
            "source": f"/srv/pool/{device}.qcow2",
            "storage_type": "nfs4",
            "storage": "nas:/export/vms",
            "error": None,
            "read_bytes_per_second": known and share * RATE_LIMIT * 0.8,
            "write_bytes_per_second": known and share * RATE_LIMIT * 0.2,
            "read_iops": known and share * IOPS_LIMIT * 0.7,
            "write_iops": known and share * IOPS_LIMIT * 0.2,
            "flush_iops": known and share * 12,
            "read_latency_seconds": known and latency * 0.9,
            "write_latency_seconds": known and latency * 1.1,
            "flush_latency_seconds": known and latency * 1.6,
            "capacity_bytes": 80 * GIB,
            "allocation_bytes": 31 * GIB,
            "errors_per_second": 0.0,
            "limits": {"total_bytes_per_second": RATE_LIMIT, "total_iops": IOPS_LIMIT}
            if first
            else {},
            "at_limit_ratio": known and share if first else None,
            "histograms": {"read": bars} if first else {},
        }

    def agent(self) -> Document:
        """Return the document of the agent."""
        tiers = [("pulse", 5, 5), ("monitor", 15, 30), ("extra", 60, 60)]
        sinks = [("prometheus", "ok", 0, False), ("remote_write", "failing", 51_200, True)]
        return self.versioned(
            {
                "agent_version": "0.1.0",
                "since": "2026-11-25T02:00:00.000Z",
                "cost": {
                    "cpu_seconds_per_second": 0.004 + self.wave(1) * 0.004,
                    "ratio": 0.0001,
                    "budget_ratio": 0.01,
                },
                "tiers": [
                    {
                        "name": name,
                        "interval_seconds": now,
                        "configured_interval_seconds": configured,
                        "age_seconds": 1.0 + self.second % configured,
                        "polls": 17_280 // configured,
                        "skipped": 0,
                        "missing": len(self.stuck),
                        "partial": 0,
                    }
                    for name, configured, now in tiers
                ],
                "collectors": [
                    {"name": name, "success": fine, "duration_seconds": 0.012, "age_seconds": 0.8}
                    for name, fine in (("bulk", True), ("kernel", True), ("cpu_stats", None))
                ],
                "calls": {"outstanding": 1, "abandoned": len(self.stuck)},
                "sinks": [
                    {
                        "name": name,
                        "state": state,
                        "waiting_samples": waiting,
                        "accepted_samples": 9_204_112 + self.second * 80,
                        "delivered_samples": 9_204_112 + self.second * 80 - waiting,
                        "dropped_samples": 0,
                        "lost_samples": 12 if waiting else 0,
                        "lag_seconds": 96.0 if waiting else None,
                        "spool_bytes": 4 * MIB if waiting else None,
                        "circuit_open": circuit,
                    }
                    for name, state, waiting, circuit in sinks
                ],
                "loop_lag_seconds": 0.0021,
                "left_out": {"guests": 2, "series": 0, "groups": []},
            }
        )

    def findings(self) -> Document:
        """Return what hurts, the guests that are stuck first; or a libvirt that is down."""
        if not self.up:
            found = [finding(LIBVIRT_DOWN, Subject(), 0)]
        else:
            rows = [(index, self.row(index)) for index in range(min(self.count, 60))]
            found = [self.finding(*each) for each in rows if each[1]["severity"]]
            found.sort(key=lambda each: each["severity"])
        return self.versioned({"findings": found, "recent": [], "kinds": [*self.kinds.values()]})

    def events(self) -> Document:
        """Return what happened last: a guest had an I/O error, if there is one."""
        guests = [{"uuid": self.uuid(n), "name": self.name(n)} for n in range(min(self.count, 1))]
        more = {"event": "io_error", "detail": "enospc", "device": self.name(0), "count": 3}
        text = f"io error enospc {self.name(0)}"
        time = self.versioned({})["time"]
        return self.versioned(
            {"events": [{"time": time, "guest": each, "text": text, **more} for each in guests]}
        )

    def finding(self, index: int, row: Document) -> Document:
        """Return the finding of a guest that hurts."""
        kind = self.hurts(index)
        assert kind
        values: dict[FindingKind, float] = {
            STUCK: 1,
            STEAL: row["steal_ratio"],
            DISK_LATENCY: row["disk_latency_seconds"],
            DISK_LIMITED: self.disk_share(index),
            MEMORY_LOW: 1 - FULL_WAVE,
        }
        device = "vda" if kind in (DISK_LATENCY, DISK_LIMITED) else ""
        guest = Domain(row["uuid"], row["name"], 12, ())
        return finding(kind, Subject(guest, device), values[kind], 100 + 240 * (index % 5))


def finding(kind: FindingKind, subject: Subject, value: float, seconds: int = 154) -> Document:
    """Return a finding with a value that hurts, for so many seconds when the host begins."""
    limit = kind.threshold
    worse = min(value, limit) if kind.below else max(value, limit)
    since = (BEGIN - seconds) * 10**9
    severity = kind.severity_of(worse)
    return Finding(kind, subject, limit, worse, 0, 0, since, severity=severity).document()
