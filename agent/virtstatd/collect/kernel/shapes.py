"""The shapes of the kernel's readings, compiled once per kind of guest, shared by those alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache

from virtstatd.catalog import Catalog
from virtstatd.collect.kernel.controllers import Fact
from virtstatd.collect.kernel.links import KEYS
from virtstatd.collect.kernel.storms import BOUNDS
from virtstatd.collect.kernel.threads import ThreadRole
from virtstatd.model import Series, Shape


GROUPS = frozenset({"local", "local_net"})
CGROUP_GROUPS = frozenset({"local_cgroup"})
DETAIL_GROUPS = frozenset({"local_detail"})
SUMMARY_GROUPS = frozenset({"local_storm", "node", "partition"})


KINDS = 1024
"""Number of kinds of cgroups that are remembered; each disk of the host makes new ones."""


class Shapes:
    """Shapes by the facts of the guests; a fact that libvirt reports too has libvirt's series."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.times = cache(self._times)
        self.storms = cache(self._storms)
        self.facts = lru_cache(KINDS)(self._facts)

    def _times(self, roles: tuple[ThreadRole, ...]) -> Shape:
        """Return the shape of the threads' times and of the process' memory."""
        series = self._catalog.series
        vcpus = [{"vcpu": str(number)} for kind, number in roles if kind == "vcpu"]
        iothreads = [{"iothread": str(number)} for kind, number in roles if kind == "iothread"]
        return self._catalog.shape(
            "local",
            (
                *self._each("vcpu", "{vcpu}.time", vcpus),
                *self._each("vcpu", "{vcpu}.delay", vcpus),
                *self._each("vcpu", "{vcpu}.wait", vcpus),
                *self._each("local", "iothread_time", iothreads),
                *self._each("local", "iothread_delay", iothreads),
                series("local", "emulator_time"),
                series("local", "emulator_delay"),
                series("balloon", "rss"),
                series("local", "minor_faults"),
                series("local", "major_faults"),
            ),
        )

    def _storms(self) -> Shape:
        whole = self._catalog
        return whole.shape(
            "local_storm",
            (
                *whole.histogram("local", "steal", BOUNDS),
                *whole.histogram("local", "saturation", BOUNDS),
                whole.series("local", "steal_peak"),
                whole.series("local", "saturation_peak"),
            ),
        )

    def _facts(self, facts: tuple[Fact, ...], group: str) -> tuple[tuple[int, ...], Shape]:
        """Return the order of the facts in a shape, and the shape."""
        families = {fact[:2]: at for at, fact in reversed(list(enumerate(facts)))}
        order = tuple(sorted(range(len(facts)), key=lambda at: (families[facts[at][:2]], at)))
        series = [self._catalog.series(*facts[at]) for at in order]
        return order, self._catalog.shape(group, series)

    def links(self, names: Sequence[str]) -> Shape:
        """Return the shape of the counters of these interfaces: all interfaces per counter."""
        devices = [{"target_device": name} for name in names]
        keys = [f"{{target_device}}.{key}" for key in KEYS]
        return self._catalog.shape(
            "local_net", [one for key in keys for one in self._each("net", key, devices)]
        )

    def _each(self, group: str, key: str, devices: Iterable[Mapping[str, str]]) -> Iterable[Series]:
        return [self._catalog.series(group, key, labels) for labels in devices]
