"""Profiles: which flavors a simulated host is filled with."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from virtstatd_simulator.guests.flavors import Flavor, Release


@dataclass(frozen=True, slots=True)
class Profile:
    """
    Describes a mix of flavors with their weights.

    `paused` and `shut_off` are shares of the guests; guests that are shut off are persistent. With
    `nova` guests carry the metadata of OpenStack.
    """

    flavors: tuple[tuple[int, Flavor], ...]
    nova: bool = True
    paused: float = 0.0
    shut_off: float = 0.0

    def of_release(self, release: Release) -> Profile:
        """Return the same hardware with the statistics of another libvirt."""
        return replace(
            self,
            flavors=tuple((weight, replace(f, release=release)) for weight, f in self.flavors),
        )

    def draw(self, rng: random.Random) -> Flavor:
        """Draw one flavor."""
        weights, flavors = zip(*self.flavors, strict=True)
        chosen: Flavor = rng.choices(flavors, weights)[0]
        return chosen


PROFILES: dict[str, Profile] = {
    # a bit of everything, as a private cloud has it
    "mixed": Profile(
        (
            (6, Flavor(vcpus=1, memory_mib=1024)),
            (8, Flavor(vcpus=2, memory_mib=4096, backing=1)),
            (5, Flavor(vcpus=4, memory_mib=8192, disks=2, kvm=True)),
            (3, Flavor(vcpus=8, memory_mib=32768, disks=2, nics=2, iothreads=1, kvm=True)),
            (1, Flavor(vcpus=16, memory_mib=65536, disks=4, nics=2, iothreads=2, perf=True)),
        ),
        paused=0.03,
        shut_off=0.03,
    ),
    # a hundred statistics per guest
    "hundred": Profile(((1, Flavor(vcpus=5, memory_mib=4096, disks=2, nics=2, iothreads=1)),)),
    # every statistic that libvirt has
    "complete": Profile(
        (
            (1, Flavor(vcpus=2, kvm=True, perf=True, resctrl=True, dirty_rate=True, iothreads=1)),
            (1, Flavor(vcpus=3, disks=2, nics=2, resctrl=True, zoned=True, balloon=False)),
        )
    ),
    "small": Profile(((1, Flavor(vcpus=1, memory_mib=512)),), nova=False),
    # 42 statistics of KVM per vCPU: few of these fill libvirt's message
    "kvm8": Profile(((1, Flavor(vcpus=8, memory_mib=16384, disks=2, kvm=True)),)),
}
