"""
Guests: a name, a UUID and a flavor, their state, and the job that callers queue for.

A guest whose monitor hangs behaves as one whose QEMU is stopped: the first call for statistics that
need its job takes the job and waits until the guest is released.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from virtstatd_simulator.guests.fields import Field, parse_field, spoiled
from virtstatd_simulator.guests.flavors import Flavor, letter
from virtstatd_simulator.guests.layout import Layout, Record
from virtstatd_simulator.guests.load import Load, random_load
from virtstatd_simulator.guests.profiles import Profile
from virtstatd_simulator.wire.xdr import pack_int, pack_string


RUNNING, PAUSED, SHUT_OFF = 1, 3, 5  # virDomainState
BOOTED, PAUSED_BY_USER, DESTROYED = 1, 1, 2  # its reasons, one list per state


@dataclass(slots=True, eq=False)
class Guest:
    """
    Describes one domain.

    `id` is -1 while it is shut off. It had run for `aged` seconds before `since`; its counters
    cover both, and do not change while it is paused. With `nova` its metadata are OpenStack's.
    `xml` is the description of one that was captured, in place of what its flavor says.
    """

    name: str
    uuid: bytes
    flavor: Flavor
    load: Load
    nova: bool = False
    owner: str = ""
    xml: str = ""
    persistent: bool = False
    id: int = -1
    state: int = SHUT_OFF
    reason: int = 0
    aged: float = 0.0
    since: float = 0.0
    elements: dict[str, str] = field(default_factory=dict)  # metadata set at run time, by URI
    tuned: dict[str, int | str] = field(default_factory=dict)  # limits set at run time, by name
    job: asyncio.Lock = field(default_factory=asyncio.Lock)
    job_since: float = 0.0
    hung: asyncio.Event | None = None
    lag: float = 0.0  # seconds that the monitor takes to answer
    spoiled: dict[str, int | None] = field(default_factory=dict)  # false values by field, None: NaN
    taps: tuple[str, ...] = ()
    _records: dict[tuple[int, bool, bool], Record] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Return whether it has a QEMU process."""
        return self.state != SHUT_OFF

    @property
    def paths(self) -> list[str]:
        """List the images: one per disk, then the chain below the first disk."""
        stem = f"/var/lib/libvirt/images/{self.name}"
        disks = [f"{stem}-vd{letter(n)}.qcow2" for n in range(self.flavor.disks)]
        return disks + [
            f"/var/lib/libvirt/images/base-{n}.qcow2" for n in range(self.flavor.backing)
        ]

    def pack(self) -> bytes:
        """Pack name, UUID and id (`remote_nonnull_domain`)."""
        return pack_string(self.name) + self.uuid + pack_int(self.id)

    def uptime(self, now: float) -> float:
        """Return the seconds that it has run since it was started."""
        return self.aged + (now - self.since if self.state == RUNNING else 0.0)

    def change(self, state: int, reason: int, now: float) -> None:
        """Enter another state; counters begin at zero after the guest was shut off."""
        self.aged = 0.0 if state == SHUT_OFF else self.uptime(now)
        self.since = now
        self.state, self.reason = state, reason
        self._records.clear()

    def record(self, groups: int, *, job: bool, backing: bool) -> Record:
        """Return the compiled record of some groups."""
        key = (groups, job, backing)
        record = self._records.get(key)
        if record is None:
            flavor, active = self.flavor, self.active
            if self.spoiled:
                fields = flavor.fields(groups, active=active, job=job, backing=backing)
                layout = Layout(
                    [
                        spoiled(f, self.spoiled[f.name]) if f.name in self.spoiled else f
                        for f in fields
                    ]
                )
            else:
                layout = flavor.layout(groups, active=active, job=job, backing=backing)
            record = layout.bind(self.pack(), self.taps, self.paths)
            self._records[key] = record
        return record

    def spoil(self, values: Mapping[str, int | None]) -> None:
        """Give fields these values from now on, None for NaN; without any, all are valid."""
        self.spoiled = {**self.spoiled, **values} if values else {}
        self._records.clear()

    def drivers(self, now: float, epoch: int) -> tuple[int, ...]:
        """Return the values that moving numbers follow, as of `now`."""
        return self.load.drivers(self.uptime(now), self.state, self.reason, epoch)


def random_guests(profile: Profile, seed: int) -> Iterator[Guest]:
    """
    Generate guests without end; the same seed gives the same ones.

    A guest has run for up to 30 days already, so that its counters are as large as real ones.
    """
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    number = 0
    while True:
        number += 1
        guest = Guest(
            name=f"instance-{number:08x}",
            uuid=uuid.UUID(int=rng.getrandbits(128), version=4).bytes,
            flavor=profile.draw(rng),
            load=random_load(rng),
            nova=profile.nova,
            owner=rng.choice(("shop", "search", "billing", "batch", "build")),
            aged=rng.uniform(0, 30 * 86400),
        )
        fate = rng.random()
        if fate < profile.shut_off:
            guest.persistent, guest.aged = True, 0.0
        elif fate < profile.shut_off + profile.paused:
            guest.state, guest.reason = PAUSED, PAUSED_BY_USER
        else:
            guest.state, guest.reason = RUNNING, BOOTED
        yield guest


@dataclass(frozen=True)
class _Replayed(Flavor):
    """Returns the record of a captured guest instead of a generated one."""

    recorded: tuple[Field, ...] = ()

    def __post_init__(self) -> None:
        for name in ("active", "active_with_backing", "inactive"):
            object.__setattr__(self, name, self.recorded)


def replayed_guests(path: Path) -> Iterator[Guest]:
    """
    Read guests that were captured from a real daemon; their values do not move.

    The file is a JSON list of `{name, uuid, id, params: [[field, type, value], ...]}`, types by
    libvirt's numbers; `xml` may be the guest's description. Raises `ValueError` for anything else.
    """
    try:
        for entry in json.loads(path.read_text()):
            fields = tuple(parse_field(*param) for param in entry["params"])
            strange = [f.name for f in fields if not f.has_group]
            if strange:
                raise ValueError(f"{path}: {strange[0]} belongs to no group of statistics")
            xml = entry.get("xml", "")
            if not isinstance(xml, str):
                raise ValueError(f"{path}: the xml of {entry['name']} is no text")  # noqa: TRY004
            state = next((int(f.base) for f in fields if f.name == "state.state"), RUNNING)
            yield Guest(
                name=entry["name"],
                uuid=uuid.UUID(entry["uuid"]).bytes,
                flavor=_Replayed(recorded=fields),
                load=random_load(random.Random(0)),  # noqa: S311 - not for secrets
                xml=xml,
                id=entry["id"],
                state=state,
                persistent=state == SHUT_OFF,
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a list of captured records") from error
