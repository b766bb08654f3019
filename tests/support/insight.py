"""An insight with a clock of its own, and guests as the collectors report them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from virtstatd.catalog import shipped
from virtstatd.insight.documents import Whereabouts
from virtstatd.insight.insight import Insight
from virtstatd.insight.judge import Finding
from virtstatd.insight.records import record_of
from virtstatd.model import Batch, Domain, Labels, Number, Reading, Shape
from virtstatd.testing import FakeClock, make_domain


START = 1_700_000_000

Item = tuple[str, Labels]
"""A key of the catalog, and labels."""

NO_LABELS: Labels = ()

_shapes: dict[tuple[str, tuple[Item, ...]], Shape] = {}


def read(domain: Domain | None, group: str, values: Mapping[Item, Number]) -> Reading:
    """Return a reading of a group of the catalog; equal keys have one shape."""
    items = tuple(values)
    if (group, items) not in _shapes:
        _shapes[group, items] = shipped().shape(group, items)
    return Reading(domain, _shapes[group, items], tuple(values.values()))


def cpu(domain: Domain, ran: float, waited: float = 0.0, vcpus: int = 2) -> Reading:
    """Return how long each vCPU ran and waited, in seconds."""
    labels: list[Labels] = [(("vcpu", str(each)),) for each in range(vcpus)]
    times: dict[Item, Number] = {("{vcpu}.time", each): round(ran * 1e9) for each in labels}
    delays: dict[Item, Number] = {("{vcpu}.delay", each): round(waited * 1e9) for each in labels}
    return read(domain, "vcpu", {("current", NO_LABELS): vcpus, **times, **delays})


def state(domain: Domain, name: str = "running") -> Reading:
    """Return the state of a guest."""
    return read(domain, "state", {("state", (("state", name), ("state_desc", ""))): 1})


def control(domain: Domain, *, responsive: bool) -> Reading:
    """Return whether a guest's monitor answers."""
    return read(domain, "control", {("responsive", NO_LABELS): int(responsive)})


def disk(domain: Domain, requests: int, seconds: float, device: str = "vda") -> Reading:
    """Return the reads of a disk, and their time."""
    return disks(domain, {device: (requests, seconds)})


def disks(domain: Domain, several: Mapping[str, tuple[int, float]]) -> Reading:
    """Return the reads of disks, and their time."""
    values: dict[Item, Number] = {
        (f"{{target_device}}.{key}", (("target_device", device),)): value
        for key in ("rd.reqs", "rd.bytes", "rd.times", "wr.reqs", "wr.bytes", "wr.times")
        for device, (requests, seconds) in several.items()
        for value in [_of_disk(key, requests, seconds)]
    }
    return read(domain, "block", values)


def _of_disk(key: str, requests: int, seconds: float) -> int:
    read = {"rd.reqs": requests, "rd.bytes": 4096 * requests, "rd.times": round(seconds * 1e9)}
    return read.get(key, 0)


@dataclass
class World:
    """An insight, and the time for it."""

    clock: FakeClock = field(default_factory=FakeClock)
    failing: list[str] = field(default_factory=list)
    told: list[Finding] = field(default_factory=list)
    records: list[Batch] = field(default_factory=list)
    """What began and ended, and the records of that."""

    step: float = 0.0
    """How far the wall clock has been set."""

    insight: Insight = field(init=False)

    def __post_init__(self) -> None:
        self.insight = Insight(
            Whereabouts("hv1", "1.0", "qemu:///system"),
            lambda: self.failing,
            self._tell,
            clock=self.clock,
            wall=self.wall,
        )

    def _tell(self, finding: Finding) -> None:
        self.told.append(finding)
        self.records.append(record_of(finding, shipped()))

    def wall(self) -> int:
        """Return Unix time in nanoseconds."""
        return round((START + self.step + self.clock.now) * 1e9)

    def put(
        self,
        *readings: Reading,
        source: str = "bulk",
        lifetime_seconds: float = 10.0,
        gone: Iterable[Domain] = (),
        groups: Iterable[str] = (),
    ) -> None:
        """Have a batch come that was taken now."""
        asked = frozenset(groups) or frozenset(each.shape.group for each in readings)
        batch = Batch(source, self.wall(), readings, asked, lifetime_seconds, tuple(gone))
        self.insight.put(batch)

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds

    def look(self) -> None:
        """Look at the host and at all guests once."""
        for _ in range(5):
            for _ in self.insight.look():
                pass

    def row(self, domain: Domain) -> dict[str, object]:
        """Return the row of a guest."""
        guest = self.insight.figures.guests[domain.uuid]
        return dict(self.insight.documents.row(guest))


VM = make_domain(0)
