"""The agent itself: what it costs, what it polls, and what it sends where."""

from __future__ import annotations

from collections.abc import Iterator

from virtstatd.commands.cells import fitted, neutral
from virtstatd.commands.top.lines import FrameLine, Style, clipped, headed, parted
from virtstatd.commands.top.state import Known
from virtstatd.commands.units import any_text, bytes_text, count_text, ratio_text, seconds_text


def agent_lines(document: Known, width: int, *, ascii_only: bool) -> list[FrameLine]:
    """Return all that the agent says of itself."""

    def text(value: object) -> str:
        return neutral(any_text(value), ascii_only=ascii_only)

    lines = [_head(document, width, text(document.get("since")))]
    lines.append(
        headed(f" {fitted('Tier', 14)}{'EVERY':>8}{'AGE':>7}{'POLLS':>9}{'SKIPPED':>9}", width)
    )
    lines += [_tier(each, text(each.get("name"))) for each in document.get("tiers") or []]
    lines.append(headed(f" {fitted('Collector', 18)}{'':8}{'TOOK':>8}{'AGE':>8}", width))
    lines += [_collector(each, text(each.get("name"))) for each in document.get("collectors") or []]
    titles = f"{'WAITING':>9}{'SENT':>9}{'LOST':>8}{'LAG':>7}{'ON DISK':>9}"
    lines.append(headed(f" {fitted('Sink', 18)}{'':8}{titles}", width))
    lines += [_sink(each, text(each.get("name"))) for each in document.get("sinks") or []]
    if not document.get("sinks"):
        lines.append(((" no sink: nothing is sent anywhere", "dim"),))
    return [clipped(line, width) for line in lines]


def _head(document: Known, width: int, since: str) -> FrameLine:
    cost, calls = document.get("cost") or {}, document.get("calls") or {}
    allowed = cost.get("budget_ratio")
    parts = [
        f" costs {seconds_text(cost.get('cpu_seconds_per_second'))} of CPU a second",
        f"budget {ratio_text(allowed)} of the host" if allowed else "no budget",
        f"calls under way {count_text(calls.get('outstanding'))}",
        f"abandoned {count_text(calls.get('abandoned'))}",
        f"loop lag {seconds_text(document.get('loop_lag_seconds'))}",
        f"runs since {since}",
    ]
    return ((parted(parts, width), "plain"),)


def _tier(tier: Known, name: str) -> FrameLine:
    now, wanted = tier.get("interval_seconds"), tier.get("configured_interval_seconds")
    stretched = now is not None and wanted is not None and now > wanted
    style: Style = "warning" if stretched or tier.get("missing") else "plain"
    text = f" {fitted(name, 14)}{seconds_text(now):>8}{seconds_text(tier.get('age_seconds')):>7}"
    text += f"{count_text(tier.get('polls')):>9}{count_text(tier.get('skipped')):>9}"
    notes = list(_notes(tier, wanted if stretched else None))
    return ((text, style), (f"  {', '.join(notes)}" if notes else "", style))


def _notes(tier: Known, wanted: float | None) -> Iterator[str]:
    if wanted is not None:
        yield f"stretched from {seconds_text(wanted)}"
    for key in ("missing", "partial"):
        if tier.get(key):
            yield f"{tier[key]} {key}"


def _collector(collector: Known, name: str) -> FrameLine:
    success = collector.get("success")
    state = "-" if success is None else "ok" if success else "FAILED"
    style: Style = "critical" if success is False else "plain"
    took, age = collector.get("duration_seconds"), collector.get("age_seconds")
    return ((f" {fitted(name, 18)}{state:<8}{seconds_text(took):>8}{seconds_text(age):>8}", style),)


def _sink(sink: Known, name: str) -> FrameLine:
    state = str(sink.get("state"))
    lost = (sink.get("lost_samples") or 0) + (sink.get("dropped_samples") or 0)
    style: Style = "critical" if lost else "warning" if state != "ok" else "plain"
    disk = bytes_text(sink.get("spool_bytes"))
    text = f" {fitted(name, 18)}{fitted(neutral(state), 8)}"
    text += f"{count_text(sink.get('waiting_samples')):>9}"
    text += f"{count_text(sink.get('delivered_samples')):>9}{count_text(lost):>8}"
    text += f"{seconds_text(sink.get('lag_seconds')):>7}{disk:>9}"
    return ((text, style),)
