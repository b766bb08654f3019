"""The tree of partitions as text: what each level uses, against what it may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from virtstatd.catalog.table import plain
from virtstatd.collect.kernel.partitions import Partition
from virtstatd.model import Number


_HEAD = ("partition", "guests", "vcpus", "cpu", "of", "weight", "memory", "of", "steal")


def as_text(
    before: Mapping[str, Partition], now: Iterable[Partition], elapsed_seconds: float
) -> str:
    """
    Return a row per partition, children indented below their parents.

    `cpu` are CPUs used in the time between the two looks, `steal` CPUs that were waited for. A
    limit that is not set is a dash.
    """
    rows = []
    for partition in now:
        former = before.get(partition.path, partition)
        used, limits = _values(partition), _values(partition, limits=True)
        spent = used.get("time", partition.totals[2]) - _values(former).get(
            "time", former.totals[2]
        )
        waited = partition.totals[4] - former.totals[4]
        depth = partition.path.count("/") - 1
        rows.append(
            (
                "  " * depth + "/" + partition.path.rpartition("/")[2],
                str(partition.totals[0]),
                str(partition.totals[1]),
                f"{spent / elapsed_seconds / 1e9:.2f}",
                _shown(limits.get("cpu_limit"), "{:.2f}"),
                _shown(limits.get("cpu_weight", limits.get("cpu_shares")), "{}"),
                _bytes(used.get("group_memory", partition.totals[5])),
                _bytes(limits.get("memory_limit")),
                f"{waited / elapsed_seconds / 1e9:.2f}",
            )
        )
    return plain(_HEAD, rows)


def _values(partition: Partition, *, limits: bool = False) -> dict[str, Number]:
    rows = partition.limits if limits else partition.rows
    return {key: number for (_, key, labels), number in rows if not labels}


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
