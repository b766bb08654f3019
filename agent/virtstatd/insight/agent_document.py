"""The document of the agent: its cost, its tiers, its collectors and its sinks."""

from __future__ import annotations

from collections.abc import Iterable

from virtstatd.insight.document import Document, stamp
from virtstatd.insight.lookup import Lookup


def agent_parts(look: Lookup, failing: Iterable[str], since: float | None) -> Document:
    """Return what the agent says of itself; `failing` are the names of sinks."""
    return {
        "since": None if since is None else stamp(int(since * 1e9)),
        "cost": {
            "cpu_seconds_per_second": look.rate("virtstatd_cpu_seconds"),
            "ratio": look.value("virtstatd_cost_ratio"),
            "budget_ratio": look.value("virtstatd_budget_ratio"),
        },
        "tiers": tiers(look),
        "collectors": collectors(look),
        "calls": {
            "outstanding": _count(look.value("virtstatd_calls_outstanding")),
            "abandoned": _count(look.value("virtstatd_calls_abandoned")),
        },
        "sinks": sink_parts(look, frozenset(failing)),
        "loop_lag_seconds": look.value("virtstatd_loop_lag_max_seconds"),
        "left_out": left_out(look),
    }


def left_out(look: Lookup) -> Document:
    """Return the guests that the filter leaves out, and the groups that are too many series."""
    cut = _by(look, "virtstatd_cut_series", "group")
    return {
        "guests": _count(look.value("virtstatd_filtered_domains")),
        "series": _count(sum(cut.values())),
        "groups": sorted(cut),
    }


def tiers(look: Lookup) -> list[Document]:
    """Return the tiers and how they keep their intervals."""
    intervals = _by(look, "virtstatd_interval_seconds", "tier")
    configured = _by(look, "virtstatd_configured_interval_seconds", "tier")
    ages = _by(look, "virtstatd_age_seconds", "tier")
    counts = {
        name: _by(look, f"virtstatd_{family}", "tier")
        for name, family in (
            ("polls", "ticks"),
            ("skipped", "ticks_skipped"),
            ("missing", "missing_domains"),
            ("partial", "partial_domains"),
        )
    }
    return [
        {
            "name": tier,
            "interval_seconds": seconds,
            "configured_interval_seconds": configured.get(tier),
            "age_seconds": ages.get(tier),
            **{name: _count(of.get(tier)) for name, of in counts.items()},
        }
        for tier, seconds in intervals.items()
    ]


def collectors(look: Lookup) -> list[Document]:
    """Return the collectors and their last rounds; None for one that had none yet."""
    success = _by(look, "virtstatd_collector_success", "collector")
    seconds = _by(look, "virtstatd_collector_duration_seconds", "collector")
    ages = _by(look, "virtstatd_collector_age_seconds", "collector")
    return [
        {
            "name": name,
            "success": bool(good),
            "duration_seconds": seconds.get(name),
            "age_seconds": ages.get(name),
        }
        for name, good in success.items()
    ]


def sink_parts(look: Lookup, failing: frozenset[str]) -> list[Document]:
    """Return the sinks: what became of their samples, and how late they are."""
    counts = {
        f"{what}_samples": _by(look, f"virtstatd_sink_{what}_samples", "sink")
        for what in ("waiting", "accepted", "delivered", "dropped", "lost")
    }
    spools = _by(look, "virtstatd_sink_spool_bytes", "sink")
    circuits = _by(look, "virtstatd_sink_circuit_open", "sink")
    return [
        {
            "name": name,
            "state": "failing" if name in failing else "ok",
            **{column: _count(of.get(name)) for column, of in counts.items()},
            "lag_seconds": lags.get(name),
            "spool_bytes": _count(spools.get(name)),
            "circuit_open": bool(circuits.get(name)),
        }
        for lags in [_lags(look)]
        for name in counts["accepted_samples"]
    ]


def _lags(look: Lookup) -> dict[str, float]:
    """Return the mean time until a sink had delivered, of the batches of the last interval."""
    sums = _by(look, "virtstatd_sink_delivery_lag_seconds:sum", "sink", rates=True)
    counts = _by(look, "virtstatd_sink_delivery_lag_seconds:count", "sink", rates=True)
    return {name: sums[name] / count for name, count in counts.items() if count and name in sums}


def _by(look: Lookup, family: str, label: str, *, rates: bool = False) -> dict[str, float]:
    """Return the numbers of a metric by a label, those with equal ones added up."""
    found: dict[str, float] = {}
    for labels, number in look.rates(family) if rates else look.values(family):
        name = dict(labels).get(label, "")
        if number is not None:
            found[name] = found.get(name, 0.0) + number
    return found


def _count(number: float | None) -> int | None:
    return None if number is None else round(number)
