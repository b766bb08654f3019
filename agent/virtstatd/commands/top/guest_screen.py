"""One guest: what hurts it, its vCPUs, memory, disks and NICs, each with a line of its past."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from virtstatd.commands.cells import fitted, neutral
from virtstatd.commands.top.lines import (
    MARKS,
    FrameLine,
    Style,
    clipped,
    headed,
    parted,
    sparkline,
    styled,
    wrapped,
)
from virtstatd.commands.top.state import Known, Shown
from virtstatd.commands.units import (
    any_text,
    bytes_text,
    count_text,
    rate_text,
    ratio_text,
    seconds_text,
)


Text = Callable[[Any], str]

DESCRIBED: Final = 12
"""Rows of the description that are shown."""

EVENTS_SHOWN: Final = 10

# key in the history, heading, text of a value, value of the highest bar
PAST: Final[tuple[tuple[str, str, Text, float | None], ...]] = (
    ("cpu_ratio", "CPU", ratio_text, 1.0),
    ("steal_ratio", "steal", ratio_text, None),
    ("memory_used_bytes", "memory", bytes_text, None),
    ("disk_latency_seconds", "latency", seconds_text, None),
    ("disk_iops", "IOPS", count_text, None),
    ("net_receive_bytes_per_second", "net in", rate_text, None),
    ("net_transmit_bytes_per_second", "net out", rate_text, None),
)
BARS_MOST: Final = 60
LABEL: Final = 9
VALUE: Final = 9


def guest_lines(seen: Shown, width: int, *, ascii_only: bool) -> list[FrameLine]:
    """Return all that is known of a guest; the screen shows what fits."""
    screen = _Guest(seen, width, ascii_only=ascii_only)
    return [clipped(line, width) for line in screen.lines()]


class _Guest:
    def __init__(self, seen: Shown, width: int, *, ascii_only: bool) -> None:
        self._document = seen.guest
        self._trails = seen.trails
        self._kinds = seen.kinds
        self._width = width
        self._ascii = ascii_only

    def lines(self) -> Iterator[FrameLine]:
        yield from self._head()
        yield from self._findings()
        yield from self._past()
        yield from self._vcpus()
        yield from self._memory()
        yield from self._disks()
        yield from self._nics()
        yield from self._events()
        yield from self._description()

    def _neutral(self, value: object) -> str:
        return neutral(any_text(value), ascii_only=self._ascii)

    def _heading(self, text: str) -> FrameLine:
        return headed(f" {text}", self._width)

    def _style(self, finding: str, value: float | None) -> Style:
        """Return how a number is marked: where a finding of that kind begins, the agent says."""
        kind = self._kinds.get(finding)
        return "warning" if kind and (value or 0.0) >= kind["threshold"] else "plain"

    def _head(self) -> Iterator[FrameLine]:
        row = self._document.get("guest") or {}
        run = self._document.get("incarnation") or {}
        since = run.get("started") or run.get("since")
        severity = str(row.get("severity") or "")
        state = "STUCK: its monitor does not answer" if row.get("stuck") else row.get("state")
        name = fitted(f" {self._neutral(row.get('name'))}  {self._neutral(state)}", self._width)
        yield ((name, styled(severity) if severity else "head"),)
        parts = [
            f" {self._neutral(row.get('uuid'))}",
            f"{row['vcpus']} vCPUs" if row.get("vcpus") else "",
            f"project {self._neutral(row['project'])}" if row.get("project") else "",
            f"partition {self._neutral(row['partition'])}" if row.get("partition") else "",
            f"pid {run['pid']}" if run.get("pid") else "",
            f"runs since {self._neutral(since)}" if since else "",
            f"data {seconds_text(row.get('age_seconds'))} old",
        ]
        yield ((parted([each for each in parts if each], self._width), "plain"),)

    def _findings(self) -> Iterator[FrameLine]:
        for each in self._document.get("findings") or []:
            severity = str(each.get("severity"))
            mark = MARKS.get(severity, "  ")
            for text in wrapped(self._neutral(each.get("text")), self._width - 4):
                yield ((f"{mark}  {text}", styled(severity)),)
                mark = "  "
            for text in wrapped(self._neutral(each.get("advice") or ""), self._width - 4):
                yield ((f"    {text}", "good"),)

    def _past(self) -> Iterator[FrameLine]:
        history = self._document.get("history") or {}
        series: Mapping[str, Sequence[float | None]] = history.get("series") or {}
        row = self._document.get("guest") or {}
        shown = [each for each in PAST if each[0] in series or row.get(each[0]) is not None]
        step = history.get("step_seconds")
        longest = max((len(each) for each in series.values()), default=0)
        bars = min(self._bars(2), longest)
        past = f", the last {seconds_text(step * bars)}" if step and bars else ""
        yield self._heading(f"Guest{past}")
        half = self._width // 2
        for left, right in zip(shown[::2], [*shown[1::2], None], strict=False):
            both = [self._one(each, series, row) for each in (left, right) if each]
            yield ((f"{fitted(both[0], half)}{''.join(both[1:])}", "plain"),)

    def _one(
        self,
        what: tuple[str, str, Text, float | None],
        series: Mapping[str, Sequence[float | None]],
        row: Known,
    ) -> str:
        key, title, text, most = what
        values = list(series.get(key) or ())
        past = values or [row.get(key)]
        bars = sparkline(past, self._bars(2), most=most, ascii_only=self._ascii)
        return f" {fitted(title, LABEL)}{text(row.get(key)):>{VALUE}} {bars.lstrip(' ') or bars}"

    def _bars(self, columns: int) -> int:
        return max(min(self._width // columns - LABEL - VALUE - 4, BARS_MOST), 4)

    def _trail(self, kind: str, name: object, column: str, width: int, most: float | None) -> str:
        values = list(self._trails.get((kind, str(name), column), ()))
        return fitted(sparkline(values, width, most=most, ascii_only=self._ascii), width)

    def _vcpus(self) -> Iterator[FrameLine]:
        vcpus = self._document.get("vcpus") or []
        if not vcpus:
            return
        bars = max(min((self._width - 42) // 2, BARS_MOST), 4)
        run, steal = fitted("RUN", 7 + bars), fitted("STEAL", 9 + bars)
        yield self._heading(f"{fitted('vCPU', 6)}{run}  {steal}   WAIT")
        for each in vcpus:
            name = each.get("vcpu")
            style = self._style("steal", each.get("steal_ratio"))
            yield (
                (
                    f" {fitted(self._neutral(name), 4)} {ratio_text(each.get('cpu_ratio')):>6} ",
                    "plain",
                ),
                (self._trail("vcpus", name, "cpu_ratio", bars, 1.0), "dim"),
                (f"  {ratio_text(each.get('steal_ratio')):>7} ", style),
                (self._trail("vcpus", name, "steal_ratio", bars, 1.0), "dim"),
                (f"  {ratio_text(each.get('wait_ratio')):>6}", "plain"),
            )

    def _memory(self) -> Iterator[FrameLine]:
        memory = self._document.get("memory") or {}
        known = [
            (title, text(memory.get(key)))
            for key, title, text in (
                ("used_bytes", "used", bytes_text),
                ("available_bytes", "seen by the guest", bytes_text),
                ("usable_bytes", "usable", bytes_text),
                ("cache_bytes", "cache", bytes_text),
                ("unused_bytes", "unused", bytes_text),
                ("current_bytes", "balloon", bytes_text),
                ("max_bytes", "maximum", bytes_text),
                ("rss_bytes", "on the host", bytes_text),
                ("swap_in_bytes_per_second", "swapped in", rate_text),
                ("swap_out_bytes_per_second", "swapped out", rate_text),
            )
            if memory.get(key) is not None
        ]
        if known:
            yield self._heading("Memory")
            text = "  ".join(f"{title} {value}" for title, value in known)
            for line in wrapped(text, self._width - 1):
                yield ((f" {line}", "plain"),)

    def _disks(self) -> Iterator[FrameLine]:
        disks = self._document.get("disks") or []
        if not disks:
            return
        bars = max(min(self._width - 68, BARS_MOST), 0)
        titles = "".join(
            f"{each:>{size}}" for each, size in (("READ", 8), ("WRITE", 9), ("IOPS r/w", 12))
        )
        yield self._heading(
            f"{fitted('Disk', 9)}{titles}{'LATENCY r/w':>15}{'AT LIMIT':>10}"
            f" {fitted('LATENCY w', bars)}"
        )
        for each in disks:
            name = each.get("device")
            iops = f"{count_text(each.get('read_iops'))}/{count_text(each.get('write_iops'))}"
            read, write = each.get("read_latency_seconds"), each.get("write_latency_seconds")
            latency = f"{seconds_text(read)}/{seconds_text(write)}"
            style = self._style("disk_limited", each.get("at_limit_ratio"))
            yield (
                (f" {fitted(self._neutral(name), 9)}", "plain"),
                (f"{rate_text(each.get('read_bytes_per_second')):>8}", "plain"),
                (f"{rate_text(each.get('write_bytes_per_second')):>9}", "plain"),
                (f"{iops:>12}{latency:>15}", "plain"),
                (f"{ratio_text(each.get('at_limit_ratio')):>10} ", style),
                (self._trail("disks", name, "write_latency_seconds", bars, None), "dim"),
            )
            if facts := self._facts(each):
                yield ((f"          {facts}", "dim"),)

    def _facts(self, disk: Known) -> str:
        parts = [
            f"{key.replace('_per_second', '').replace('_', ' ')} limit {_limit(key, value)}"
            for key, value in (disk.get("limits") or {}).items()
            if value
        ]
        if disk.get("errors_per_second"):
            parts.append(f"{count_text(disk['errors_per_second'])} errors/s")
        if disk.get("capacity_bytes") is not None:
            used = bytes_text(disk.get("allocation_bytes"))
            parts.append(f"{used} of {bytes_text(disk['capacity_bytes'])}")
        if disk.get("source"):
            parts.append(self._neutral(disk["source"]))
        return "  ".join(self._neutral(each) for each in parts)

    def _nics(self) -> Iterator[FrameLine]:
        nics = self._document.get("nics") or []
        if not nics:
            return
        bars = max(min(self._width - 68, BARS_MOST), 0)
        titles = f"{'IN':>8}{'OUT':>9}{'PACKETS in/out':>18}{'DROPS/s':>9}{'ERRORS/s':>10}"
        yield self._heading(f"{fitted('NIC', 9)}{titles} {fitted('IN', bars)}")
        for each in nics:
            name = each.get("device")
            packets = (
                f"{count_text(each.get('receive_packets_per_second'))}"
                f"/{count_text(each.get('transmit_packets_per_second'))}"
            )
            drops, errors = _both(each, "drops"), _both(each, "errors")
            style: Style = "warning" if drops or errors else "plain"
            yield (
                (f" {fitted(self._neutral(name), 9)}", "plain"),
                (f"{rate_text(each.get('receive_bytes_per_second')):>8}", "plain"),
                (f"{rate_text(each.get('transmit_bytes_per_second')):>9}", "plain"),
                (f"{packets:>18}", "plain"),
                (f"{count_text(drops):>9}{count_text(errors):>10} ", style),
                (self._trail("nics", name, "receive_bytes_per_second", bars, None), "dim"),
            )

    def _events(self) -> Iterator[FrameLine]:
        events = self._document.get("events") or []
        if events:
            yield self._heading("What happened")
        for each in events[:EVENTS_SHOWN]:
            when = self._neutral(str(each.get("time"))[:19].replace("T", " "))
            text = self._neutral(each.get("text") or each.get("event"))
            for line in wrapped(text, self._width - len(when) - 3) or [""]:
                yield ((f" {when:19}  {line}", "plain"),)
                when = ""

    def _description(self) -> Iterator[FrameLine]:
        known = list((self._document.get("description") or {}).items())
        if known:
            yield self._heading("Description")
        for key, value in known[:DESCRIBED]:
            yield ((f" {fitted(self._neutral(key), 24)} {self._neutral(value)}", "plain"),)


def _limit(key: str, value: object) -> str:
    number = value if isinstance(value, int | float) else None
    return rate_text(number) if "bytes" in key else count_text(number)


def _both(nic: Known, what: str) -> float | None:
    """Return the sum of both directions, None where neither is known."""
    parts = [nic.get(f"{way}_{what}_per_second") for way in ("receive", "transmit")]
    known = [each for each in parts if each is not None]
    return sum(known) if known else None
