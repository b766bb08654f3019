"""What hurts, as lines: the one that the cursor is on with its advice."""

from __future__ import annotations

from datetime import UTC, datetime

from virtstatd.commands.cells import fitted, neutral
from virtstatd.commands.top.lines import (
    MARKS,
    FrameLine,
    clipped,
    headed,
    selected,
    styled,
    wrapped,
)
from virtstatd.commands.top.state import Known, TopView
from virtstatd.commands.units import seconds_text


RECENT = 3
"""How many findings that have ended are shown where nothing hurts."""


def lasted(finding: Known, now: str) -> float | None:
    """Return for how many seconds a finding has lasted, None where its times are not known."""
    begun, ended = moment(finding.get("since")), moment(finding.get("until") or now)
    return None if begun is None or ended is None else max((ended - begun).total_seconds(), 0.0)


def moment(text: object) -> datetime | None:
    """Return a time of a document, None if there is none."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def finding_lines(document: Known, view: TopView, width: int, room: int) -> list[FrameLine]:
    """Return the findings in at most half of the room, or all of it where they need no more."""
    found = document.get("findings") or []
    now = str(document.get("time"))
    if not found:
        return _well(document, view, width)
    cursor = min(view.cursor, len(found) - 1)
    most = max(room * 2 // 3, 3)
    blocks = [
        _block(each, now, view, width, cursor=index == cursor) for index, each in enumerate(found)
    ]
    begin = 0
    while sum(map(len, blocks[begin : cursor + 1])) > most - 1:
        begin += 1
    lines = [line for block in blocks[begin:] for line in block][: most - 1]
    shown = f"{cursor + 1} of {len(found)}" if len(found) > 1 else "1"
    return [headed(f" What hurts: {shown}", width), *lines]


def _well(document: Known, view: TopView, width: int) -> list[FrameLine]:
    if not document:
        return []
    lines: list[FrameLine] = [headed(" What hurts", width)]
    lines.append(clipped(((" Nothing hurts now.", "good"),), width))
    for each in (document.get("recent") or [])[:RECENT]:
        text = neutral(each.get("text"), ascii_only=view.ascii_only)
        ended = moment(each.get("until"))
        now = moment(document.get("time"))
        ago = seconds_text((now - ended).total_seconds()) if ended and now else "some time"
        lines.append(clipped(((f"    ended {ago} ago: {text}", "dim"),), width))
    return lines


def _block(finding: Known, now: str, view: TopView, width: int, *, cursor: bool) -> list[FrameLine]:
    """Return a finding: one line, or all of its text and its advice where the cursor is on it."""
    severity = str(finding.get("severity"))
    since = seconds_text(lasted(finding, now))
    text = neutral(finding.get("text"), ascii_only=view.ascii_only)
    head = f"{MARKS.get(severity, '  ')} {fitted(severity, 8)} {since:>5}  "
    if not cursor:
        return [clipped(((head, styled(severity)), (text, "plain")), width)]
    first, *rest = wrapped(text, max(width - len(head), 20)) or [""]
    lines = [selected(((head, "plain"), (first, "plain")), width)]
    indent = " " * len(head)
    lines += [selected(((indent + each, "plain"),), width) for each in rest]
    advice = neutral(finding.get("advice") or "", ascii_only=view.ascii_only)
    more = wrapped(advice, max(width - len(head), 20))
    lines += [clipped(((indent + each, "good"),), width) for each in more]
    return lines
