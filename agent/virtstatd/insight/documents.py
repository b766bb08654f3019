"""The documents of the API, plain dicts of JSON's types, from what is known now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from virtstatd.insight.agent_document import agent_parts
from virtstatd.insight.columns import BY_NAME, COLUMNS, Cell, GuestRow
from virtstatd.insight.document import Document, stamp
from virtstatd.insight.figures import Figures, GuestFigures
from virtstatd.insight.filters import Filter, Order
from virtstatd.insight.guest_document import parts_of
from virtstatd.insight.guests import last_row, row_of, share, whole
from virtstatd.insight.judge import Judge
from virtstatd.insight.lookup import Lookup
from virtstatd.insight.objects import network_rows, pool_rows
from virtstatd.insight.partitions import partition_rows


VERSION: Final = 1
"""Of all documents: names in them are added, never changed or removed."""

N: Final = "libvirt_node"


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What the agent is: the host's name, its own version, the hypervisor."""

    host: str
    version: str
    uri: str


class Documents:
    """Make documents of figures and findings; `me` says where."""

    def __init__(
        self,
        figures: Figures,
        judge: Judge,
        me: Whereabouts,
        failing: Callable[[], Iterable[str]] = lambda: (),
    ) -> None:
        self.figures = figures
        self.judge = judge
        self.me = me
        self._failing = failing

    def head(self) -> Document:
        """Return what each document begins with."""
        return {"version": VERSION, "time": stamp(self.figures.wall())}

    def rows(self, *, fresh: bool = True) -> Iterator[GuestRow]:
        """Yield the row of each guest that runs; not `fresh`, as it was computed last."""
        now, wall = self.figures.clock(), self.figures.wall() / 1e9
        make = row_of if fresh else last_row
        for guest in [*self.figures.guests.values()]:
            yield self.judged(make(guest, now, wall))

    def stopped_rows(self) -> Iterator[GuestRow]:
        """Yield the row of each guest that is defined and does not run: its state, not more."""
        now, wall = self.figures.clock(), self.figures.wall() / 1e9
        for guest in [*self.figures.stopped.values()]:
            yield row_of(guest, now, wall)

    def row(self, guest: GuestFigures) -> GuestRow:
        """Return the row of one guest."""
        row = row_of(guest, self.figures.clock(), self.figures.wall() / 1e9)
        return self.judged(row)

    def judged(self, row: GuestRow) -> GuestRow:
        """Return a row with what is found of its guest."""
        row["findings"], row["severity"] = self.judge.of(str(row["uuid"]))
        return row

    def host(self, total: Totals) -> Document:
        """Return the document of the host; `total` is of all guests."""
        look = self.figures.host()
        cpus = cpu_count(look)
        at = self.figures.at
        age = None if at is None else round(max(0.0, self.figures.clock() - at), 1)
        up = look.value("libvirt_up")
        return {
            **self.head(),
            "host": self.me.host,
            "agent_version": self.me.version,
            "uri": self.me.uri,
            "libvirt": {
                "up": bool(up),
                "version": libvirt_version(look),
                "unresponsive": total.stuck,
            },
            "guests": {
                "active": total.active,
                "running": total.running,
                "paused": total.paused,
                "stopped": whole(look.value("libvirt_inactive_domains")),
                "stuck": total.stuck,
            },
            "age_seconds": age,
            "findings": self.judge.counts(),
            "cpu": {
                "count": cpus or None,
                "used_ratio": used_cpu(look, cpus),
                "guests_ratio": share(total.cpu, cpus),
                "steal_ratio": share(total.steal, cpus),
            },
            "memory": {
                "total_bytes": whole(look.value(f"{N}_memory_total_bytes")),
                "available_bytes": whole(look.value(f"{N}_memory_available_bytes")),
                "guests_bytes": whole(total.memory),
            },
            "pressure": pressure_of(look, N),
            "disk": {
                "read_bytes_per_second": total.disk_read,
                "write_bytes_per_second": total.disk_write,
                "iops": total.iops,
            },
            "network": {
                "receive_bytes_per_second": total.receive,
                "transmit_bytes_per_second": total.transmit,
            },
            "partitions": partition_rows(look, cpus),
            "storage_pools": pool_rows(look),
            "networks": network_rows(look),
        }

    def guests(
        self,
        rows: list[GuestRow],
        wanted: Filter,
        order: Order,
        *,
        offset: int = 0,
        limit: int | None = None,
        columns: Iterable[str] = (),
    ) -> Document:
        """Return the table of guests, as far as it is wanted, in an order."""
        matched = [row for row in rows if wanted(row)]
        order.sort(matched)
        ids = [BY_NAME[name].id for name in columns]
        shown = matched[offset : None if limit is None else offset + limit]
        if ids:
            ids = [*dict.fromkeys(("uuid", *ids))]
            shown = [{each: row[each] for each in ids} for row in shown]
        return {
            **self.head(),
            "total": len(rows),
            "matched": len(matched),
            "columns": [
                {
                    "id": each.id,
                    "title": each.title,
                    "unit": each.unit,
                    "help": each.help,
                    "finding": each.finding or None,
                }
                for each in COLUMNS
                if not ids or each.id in ids
            ],
            "guests": shown,
        }

    def guest(self, uuid: str) -> Document | None:
        """Return the document of a guest, None if it is not defined here."""
        guest = self.figures.known(uuid)
        if guest is None:
            return None
        wall = self.figures.wall() / 1e9
        return {
            **self.head(),
            "guest": self.row(guest),
            **parts_of(guest, guest.look(self.figures.clock()), wall),
            "findings": self.judge.documents(uuid),
        }

    def agent(self) -> Document:
        """Return the document of the agent itself."""
        look = self.figures.host()
        since = look.value("virtstatd_start_time_seconds")
        parts = agent_parts(look, self._failing(), since)
        return {**self.head(), "agent_version": self.me.version, **parts}

    def found(self) -> Document:
        """Return the document of the findings."""
        return {
            **self.head(),
            "findings": self.judge.documents(),
            "recent": self.judge.recent(),
        }


@dataclass(slots=True)
class Totals:
    """Sums over the guests; one of which nothing is known is None."""

    active: int = 0
    running: int = 0
    paused: int = 0
    stuck: int = 0
    cpu: float | None = None
    steal: float | None = None
    memory: float | None = None
    disk_read: float | None = None
    disk_write: float | None = None
    iops: float | None = None
    receive: float | None = None
    transmit: float | None = None

    @classmethod
    def of(cls, rows: Iterable[GuestRow]) -> Totals:
        """Add up rows."""
        total = cls()
        for row in rows:
            total.add(row)
        return total

    def add(self, row: GuestRow) -> None:
        """Add a row."""
        self.active += 1
        self.running += row["state"] in ("running", "blocked")
        self.paused += row["state"] in ("paused", "pmsuspended")
        self.stuck += bool(row["stuck"])
        vcpus = row["vcpus"]
        if isinstance(vcpus, int):
            self.cpu = _plus(self.cpu, row["cpu_ratio"], vcpus)
            self.steal = _plus(self.steal, row["steal_ratio"], vcpus)
        self.memory = _plus(self.memory, row["memory_rss_bytes"])
        self.disk_read = _plus(self.disk_read, row["disk_read_bytes_per_second"])
        self.disk_write = _plus(self.disk_write, row["disk_write_bytes_per_second"])
        self.iops = _plus(self.iops, row["disk_iops"])
        self.receive = _plus(self.receive, row["net_receive_bytes_per_second"])
        self.transmit = _plus(self.transmit, row["net_transmit_bytes_per_second"])


def _plus(total: float | None, cell: Cell, times: int = 1) -> float | None:
    """Return a sum, to which what is not known adds nothing."""
    return (total or 0) + cell * times if isinstance(cell, int | float) else total


def cpu_count(look: Lookup) -> int:
    """Return the number of the host's CPUs, 0 where it is not known."""
    return len({dict(labels).get("cpu") for labels in look.labels(f"{N}_cpu_seconds")})


def used_cpu(look: Lookup, cpus: int) -> float | None:
    """Return the share of the host's CPU time that was not idle."""
    if not cpus:
        return None
    idle = 0.0
    for labels, rate in look.rates(f"{N}_cpu_seconds"):
        if dict(labels).get("mode") in ("idle", "iowait"):
            if rate is None:
                return None
            idle += rate
    return min(1.0, max(0.0, 1 - idle / cpus))


def libvirt_version(look: Lookup) -> str | None:
    """Return the version of the daemon that answers."""
    for labels in look.labels("libvirt_version_info"):
        return dict(labels).get("version")
    return None


def pressure_of(look: Lookup, prefix: str) -> dict[str, float | None]:
    """Return the shares of time in which something waited for a resource."""
    rates = {
        dict(labels).get("resource", ""): rate
        for labels, rate in look.rates(f"{prefix}_pressure_some_seconds")
    }
    return {resource: rates.get(resource) for resource in ("cpu", "io", "memory")}
