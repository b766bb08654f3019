"""What agents say of their guests' CPUs, made into rows of the catalog."""

from __future__ import annotations

from typing import Final

from virtstatd.collect.guest_agent.answers import MILLISECONDS_MAX, AgentAnswer, Said
from virtstatd.model import Labels


def said_vcpus(answer: AgentAnswer, _: int) -> Said:
    """Return how many CPUs the guest has, and how many of them it uses."""
    said = Said(unknown=sum(key not in ("vcpus", "online", "offlinable") for key in answer))
    for key, of in (("vcpus", "vcpus"), ("vcpus_online", "online")):
        if of in answer:
            said.rows.append((key, (), _numbered(str(answer[of]))))
    return said


def said_cpu(answer: AgentAnswer, most: int) -> Said:
    """Return the CPU times of each of the guest's CPUs, as it counts them in milliseconds."""
    said = Said()
    times: dict[Labels, int] = {}
    for each in answer["cpus"]:
        cpu = each.get("cpu")
        if not isinstance(cpu, int) or len(times) >= most * len(_MODES):
            said.cut += 1
            continue
        said.unknown += len(each.keys() - _MODES.keys() - {"cpu", "type"})
        for key in _MODES.keys() & each.keys():
            time = each[key]
            if isinstance(time, int) and 0 <= time < MILLISECONDS_MAX:
                times[("cpu", str(cpu)), ("mode", _MODES[key])] = time
            else:
                said.impossible += 1
    said.rows = [("cpu", labels, time) for labels, time in sorted(times.items())]
    return said


def _numbered(cpus: str) -> int:
    """Return how many CPUs a text like `0-3,5` names."""
    ranges = (part.partition("-") for part in cpus.split(",") if part)
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


_MODES: Final = {
    "user": "user",
    "nice": "nice",
    "system": "system",
    "idle": "idle",
    "iowait": "iowait",
    "irq": "irq",
    "softirq": "softirq",
    "steal": "steal",
    "guest": "guest",
    "guestnice": "guest_nice",
}
"""The agent's names, and those of node_exporter."""
