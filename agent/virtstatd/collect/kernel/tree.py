"""The tree of partitions as text: the usage of each level against its limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from virtstatd.catalog.table import plain
from virtstatd.collect.kernel.partitions import Partition
from virtstatd.model import Number


_HEAD = (
    *("partition", "guests", "vcpus", "cpu", "cpu limit", "weight", "memory", "memory limit"),
    "steal",
)


def as_text(
    before: Mapping[str, Partition], now: Iterable[Partition], elapsed_seconds: float
) -> str:
    """
    Return a row per partition, children indented below their parents.

    `cpu` is CPUs used in the time between the two readings, `steal` CPUs that were waited for. A
    limit that is not set is a dash.
    """
    rows = []
    for partition in now:
        former = before.get(partition.path, partition)
        used, limits = _values(partition), _values(partition, limits=True)
        then = _values(former)
        spent = _grown("time" if "time" in used else "domains_cpu", used, then)
        depth = partition.path.count("/") - 1
        rows.append(
            (
                "  " * depth + "/" + partition.path.rpartition("/")[2],
                _shown(used.get("domains"), "{}"),
                _shown(used.get("vcpus"), "{}"),
                _rate(spent, elapsed_seconds),
                _shown(limits.get("cpu_limit"), "{:.2f}"),
                _shown(limits.get("cpu_weight", limits.get("cpu_shares")), "{}"),
                _bytes(used.get("group_memory", used.get("rss"))),
                _bytes(limits.get("memory_limit")),
                _rate(_grown("vcpu_delay", used, then), elapsed_seconds),
            )
        )
    return plain(_HEAD, rows)


def _values(partition: Partition, *, limits: bool = False) -> dict[str, Number]:
    rows = partition.limits if limits else partition.rows
    own = {key: number for (_, key, labels), number in rows if not labels}
    return own if limits else {**partition.sums, **own}


def _grown(key: str, now: Mapping[str, Number], before: Mapping[str, Number]) -> Number | None:
    """Return how much a number grew between two readings, None if it is not known."""
    number = now.get(key)
    return None if number is None else number - before.get(key, number)


def _rate(nanoseconds: Number | None, elapsed_seconds: float) -> str:
    return "-" if nanoseconds is None else f"{nanoseconds / elapsed_seconds / 1e9:.2f}"


def _shown(number: Number | None, form: str) -> str:
    return "-" if number is None else form.format(number)


def _bytes(number: Number | None) -> str:
    if number is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:  # noqa: PLR2004 - the units' own factor
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
