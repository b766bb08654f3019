"""One pure function from what is known and looked at to the lines of a screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from virtstatd.commands.cells import fitted, neutral
from virtstatd.commands.top.agent_screen import agent_lines
from virtstatd.commands.top.guest_screen import guest_lines
from virtstatd.commands.top.help_screen import help_lines
from virtstatd.commands.top.lines import (
    FrameLine,
    FrameSpan,
    Style,
    clipped,
    headed,
    parted,
)
from virtstatd.commands.top.problems import finding_lines
from virtstatd.commands.top.state import Known, Shown, TopView
from virtstatd.commands.top.table import heading, row
from virtstatd.commands.units import (
    any_text,
    bytes_text,
    count_text,
    rate_text,
    ratio_text,
    seconds_text,
)


SUMMARY_HEIGHT: Final = 12
"""Height from which the lines of the host are shown."""

KEYS: Final = {
    "hurts": ("q quit", "Enter open", "2 guests", "3 agent", "? help", "/ filter", "p pause"),
    "guests": (
        *("q quit", "Enter open", "1 hurts", "/ filter", "s S sort", "r reverse", "? help"),
        "3 agent",
    ),
    "guest": ("q quit", "Esc back", "Up Down scroll", "? help", "p pause"),
    "agent": ("q quit", "Esc back", "1 hurts", "2 guests", "? help"),
    "help": ("q quit", "Esc back"),
}


def frame(seen: Shown, view: TopView, width: int, height: int) -> list[FrameLine]:
    """
    Return the lines of a screen of that size: never more lines, never a longer one.

    Nothing of a guest's is interpreted, whatever it is called.
    """
    top = top_lines(seen, view, width, height)
    room = max(height - len(top) - 1, 0)
    body = _BODIES[view.screen](seen, view, width, room)[:room]
    body += [()] * (room - len(body))
    return [*top, *body, _bottom(seen, view, width)][:height]


def table_rows(view: TopView, height: int) -> int:
    """Return how many guests the screen of guests shows."""
    return max(height - len(top_lines(Shown(), view, 80, height)) - 2, 1)


def top_lines(seen: Shown, view: TopView, width: int, height: int) -> list[FrameLine]:
    """Return the lines above all screens: whose numbers these are, and the host's sums."""
    lines = [_title(seen, view, width)]
    if height >= SUMMARY_HEIGHT:
        lines += [clipped(((text, "plain"),), width) for text in _host(seen.host, width)]
    return lines


def _title(seen: Shown, view: TopView, width: int) -> FrameLine:
    host = seen.host
    if not host:
        text = f" virtstatd top: {seen.where}"
        return headed(neutral(text, ascii_only=view.ascii_only), width)
    guests, found = host.get("guests") or {}, host.get("findings") or {}
    libvirt = host.get("libvirt") or {}
    parts = [
        f" {host.get('host')}",
        *(["PAUSED"] if view.paused else []),
        _counted(found),
        f"{any_text(guests.get('running'))} running",
        *(
            f"{guests[each]} {each.upper() if each == 'stuck' else each}"
            for each in ("stuck", "paused", "stopped")
            if guests.get(each)
        ),
        f"libvirt {'up' if libvirt.get('up') else 'DOWN'}",
        f"data {seconds_text(host.get('age_seconds'))} old",
        seen.where,
        *([f"libvirt {libvirt['version']}"] if libvirt.get("version") else []),
        f"virtstatd {host.get('agent_version')}",
    ]
    shown = parted([neutral(each, ascii_only=view.ascii_only) for each in parts], width)
    style: Style = "critical" if found.get("critical") or not libvirt.get("up") else "head"
    return ((fitted(shown, width), style),)


def _counted(found: Any) -> str:
    critical, warning = found.get("critical") or 0, found.get("warning") or 0
    if not critical and not warning:
        return "nothing hurts"
    parts = [f"!! {critical} critical"] if critical else []
    parts += [f"! {warning} warning" + "s" * (warning != 1)] if warning else []
    return ", ".join(parts)


def _host(host: Known, width: int) -> Iterator[str]:
    """Yield two lines of the host's sums, as far as they are known."""
    cpu, memory = host.get("cpu") or {}, host.get("memory") or {}
    pressure, disk = host.get("pressure") or {}, host.get("disk") or {}
    network = host.get("network") or {}
    shares = [
        _known(f"CPU {{:>5}} of {cpu.get('count')}", ratio_text, cpu.get("used_ratio")),
        _known("guests {}", ratio_text, cpu.get("guests_ratio")),
        _known("steal {}", ratio_text, cpu.get("steal_ratio")),
        _known("pressure CPU {}", ratio_text, pressure.get("cpu")),
        _known("I/O {}", ratio_text, pressure.get("io")),
        _known("memory {}", ratio_text, pressure.get("memory")),
    ]
    rates = [
        _known(
            "free {} of {}", bytes_text, memory.get("available_bytes"), memory.get("total_bytes")
        ),
        _known("disk r {}", rate_text, disk.get("read_bytes_per_second")),
        _known("w {}", rate_text, disk.get("write_bytes_per_second")),
        _known("net in {}", rate_text, network.get("receive_bytes_per_second")),
        _known("out {}", rate_text, network.get("transmit_bytes_per_second")),
        _known("{} IOPS", count_text, disk.get("iops")),
        _known("guests' memory {}", bytes_text, memory.get("guests_bytes")),
    ]
    for parts in (shares, rates):
        known = [each for each in parts if each]
        yield " " + parted(known or ["the host itself is not read" if host else ""], width - 1)


def _known(form: str, text: Callable[[Any], str], *values: Any) -> str:
    """Return a part of a line, empty where its value is not known."""
    return "" if values[0] is None else form.format(*map(text, values))


def _hurts(seen: Shown, view: TopView, width: int, room: int) -> list[FrameLine]:
    found = finding_lines(seen.findings, view, width, room)
    guests = seen.guests.get("guests") or []
    left = room - len(found) - 1
    if left < 3 or not guests:  # noqa: PLR2004 - a heading and a guest or two
        return found if seen.host or not seen.fault else [*_nothing(seen, view, width), *found]
    rows = guests[: left - 1]
    return [
        *found,
        (),
        heading(view.sort, width),
        *(row(each, width, cursor=False, ascii_only=view.ascii_only) for each in rows),
    ]


def _guests(seen: Shown, view: TopView, width: int, room: int) -> list[FrameLine]:
    guests = seen.guests.get("guests") or []
    if not guests:
        text = " No guest matches the filter." if view.filter else " No guests."
        empty = clipped(((text, "dim"),), width) if seen.guests else ()
        return [heading(view.sort, width), empty, *_nothing(seen, view, width)]
    lines = [heading(view.sort, width)]
    begin = max(view.first, seen.first)
    shown = guests[begin - seen.first :][: max(room - 1, 0)]
    for index, each in enumerate(shown, begin):
        lines.append(
            row(each, width, cursor=index == view.cursor, ascii_only=view.ascii_only),
        )
    return lines


def _guest(seen: Shown, view: TopView, width: int, room: int) -> list[FrameLine]:
    if (seen.guest.get("guest") or {}).get("uuid") != view.uuid:
        return _nothing(seen, view, width)
    return _scrolled(guest_lines(seen, width, ascii_only=view.ascii_only), view, room)


def _agent(seen: Shown, view: TopView, width: int, room: int) -> list[FrameLine]:
    if not seen.agent:
        return _nothing(seen, view, width)
    return _scrolled(agent_lines(seen.agent, width, ascii_only=view.ascii_only), view, room)


def _help(_: Shown, view: TopView, width: int, room: int) -> list[FrameLine]:
    return _scrolled(help_lines(width), view, room)


_BODIES: Final[dict[str, Callable[[Shown, TopView, int, int], list[FrameLine]]]] = {
    "hurts": _hurts,
    "guests": _guests,
    "guest": _guest,
    "agent": _agent,
    "help": _help,
}


def _scrolled(lines: list[FrameLine], view: TopView, room: int) -> list[FrameLine]:
    return lines[min(view.first, max(len(lines) - room, 0)) :]


def _nothing(seen: Shown, view: TopView, width: int) -> list[FrameLine]:
    """Return why there is nothing yet."""
    text = neutral(seen.fault or "Waiting for numbers ...", ascii_only=view.ascii_only)
    return [(), clipped(((f" {text}", "warning" if seen.fault else "dim"),), width)]


def _bottom(seen: Shown, view: TopView, width: int) -> FrameLine:
    if view.typed is not None:
        typed = neutral(view.typed, ascii_only=view.ascii_only)
        return ((fitted(f" Filter: {typed}_", width), "head"),)
    spans: list[FrameSpan] = []
    if seen.fault and seen.host:
        fault = neutral(seen.fault, ascii_only=view.ascii_only)
        return ((fitted(f" ! {fault}", width), "warning"),)
    if view.screen == "guests" and seen.guests:
        spans.append((_place(seen, view), "plain"))
    used = sum(len(text) for text, _ in spans)
    spans.append((f" {parted(KEYS[view.screen], width - used - 2)}", "dim"))
    return clipped(spans, width)


def _place(seen: Shown, view: TopView) -> str:
    matched, total = seen.guests.get("matched", 0), seen.guests.get("total", 0)
    text = f" {min(view.cursor + 1, matched)}/{matched} "
    if view.filter:
        text += f"of {total}: {neutral(view.filter, ascii_only=view.ascii_only)} "
    return text
