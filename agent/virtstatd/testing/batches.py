"""Batches as libvirt's statistics make them, without a libvirt."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from virtstatd.model import Batch, Domain, Field, Kind, Labels, Number, Reading, Series, Shape


HOSTILE_NAMES = (
    'quo"te',
    "back\\slash\\n",
    "new\nline",
    "carriage\r\nreturn",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
    "\N{PILE OF POO} \N{SNOWMAN}",
    "%s%n%d",
    "{}=,;#",
    "$(id)`id`",
    "   ",
    "\ttab",
    "\x1b[31mred",
    "\x00\x01",
    "\udce9",
    "e" * 255,
    "",
)
"""Names that libvirt's drivers accept, and some that only a broken driver could return."""

TAKEN_AT = 1_700_000_000_123_456_789

_DOMAIN = "libvirt_domain"
_STATE = Field(f"{_DOMAIN}_info", "vstate", Kind.GAUGE, "", "State, as virDomainState counts it.")
_CPU_TIME = Field(
    f"{_DOMAIN}_info", "cpu_time", Kind.COUNTER, "seconds", "CPU time used.", exponent=-9
)
_MEMORY = Field(f"{_DOMAIN}_memory_stats", "rss", Kind.GAUGE, "bytes", "Resident set size.")
_VCPU_TIME = Field(
    f"{_DOMAIN}_vcpu", "time", Kind.COUNTER, "seconds", "CPU time of a vCPU.", exponent=-9
)
_VCPU_EXITS = Field(f"{_DOMAIN}_vcpu", "exits", Kind.COUNTER, "", "Exits to the host.")
_READ_BYTES = Field(f"{_DOMAIN}_block_stats", "read", Kind.COUNTER, "bytes", "Bytes read.")
_READ_REQUESTS = Field(
    f"{_DOMAIN}_block_stats", "read_requests", Kind.COUNTER, "", "Requests that read."
)
_READ_TIME = Field(
    f"{_DOMAIN}_block_stats", "read_time", Kind.COUNTER, "seconds", "Time of reads.", exponent=-9
)
_READ_LATENCY = Field(
    f"{_DOMAIN}_block_stats",
    "read_latency",
    Kind.HISTOGRAM,
    "seconds",
    'How long reads took, by "size" and C:\\path.',
    exponent=-9,
)
_BLOCK_INFO = Field(f"{_DOMAIN}_block_stats", "info", Kind.INFO, "", "What a disk is made of.")
_RECEIVED = Field(f"{_DOMAIN}_interface_stats", "receive", Kind.COUNTER, "bytes", "Bytes received.")
_ODD = Field(_DOMAIN, "unknown", Kind.UNKNOWN, "", "What the catalog does not know.")


def make_domain(number: int = 0, name: str | None = None) -> Domain:
    """Return a running guest, by default `vm-0`, `vm-1` and so on."""
    name = f"vm-{number}" if name is None else name
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{number}"))
    return Domain(uuid=identity, name=name, id=number + 1, labels=(("domain", name),))


def make_shapes(vcpus: int = 2, disks: int = 2, nics: int = 1) -> tuple[Shape, ...]:
    """Return the shapes of a guest's groups, new ones at each call."""
    cpus: list[Labels] = [(("vcpu", str(number)),) for number in range(vcpus)]
    targets: list[Labels] = [
        (("target_device", f"vd{_letters(number)}"),) for number in range(disks)
    ]
    taps: list[Labels] = [(("target_device", f"vnet{number}"),) for number in range(nics)]
    bounds = ("0.0001", "0.001", "10", "+Inf")
    return (
        Shape("state", (Series(_STATE),)),
        Shape("cpu", (Series(_CPU_TIME),)),
        Shape("balloon", (Series(_MEMORY),)),
        Shape("vcpu", tuple(Series(each, of) for each in (_VCPU_TIME, _VCPU_EXITS) for of in cpus)),
        Shape(
            "block",
            (
                *(
                    Series(each, of)
                    for each in (_READ_BYTES, _READ_REQUESTS, _READ_TIME)
                    for of in targets
                ),
                *(
                    series
                    for of in targets
                    for series in (
                        *(
                            Series(_READ_LATENCY, (*of, ("le", bound)), "bucket")
                            for bound in bounds
                        ),
                        Series(_READ_LATENCY, of, "sum"),
                        Series(_READ_LATENCY, of, "count"),
                    )
                ),
                *(
                    Series(_BLOCK_INFO, (*of, ("source_file", f"/images/{of[0][1]} 100%.qcow2")))
                    for of in targets
                ),
            ),
        ),
        Shape("interface", tuple(Series(_RECEIVED, of) for of in taps)),
        Shape("vm", (Series(_ODD, (("key", "vm.odd.key"),)),)),
    )


def make_reading(domain: Domain | None, shape: Shape, base: int = 1000) -> Reading:
    """Return a reading with values of the right kind that differ from each other."""
    values: list[Number] = []
    for index, series in enumerate(shape.series):
        match series.field.kind, series.part:
            case Kind.INFO, _:
                values.append(1)
            case _, "bucket":
                values.append(base + index)  # rises with the bound, as it must
            case _, "count":
                values.append(values[-2])  # what the bucket before the sum holds
            case _:
                values.append(base * 1_000_003 + index)
    return Reading(domain, shape, tuple(values))


def make_batch(
    domains: int | Sequence[Domain] = 3,
    *,
    shapes: Sequence[Shape] | None = None,
    source: str = "bulk",
    taken_at: int = TAKEN_AT,
    base: int = 1000,
    lifetime_seconds: float = 60.0,
    gone: tuple[Domain, ...] = (),
) -> Batch:
    """Return the batch of one call: every group of every guest, counters beginning at base."""
    guests = [make_domain(each) for each in range(domains)] if isinstance(domains, int) else domains
    own = make_shapes() if shapes is None else shapes
    return Batch(
        source=source,
        taken_at=taken_at,
        readings=tuple(
            make_reading(guest, shape, base + 100 * number)
            for number, guest in enumerate(guests)
            for shape in own
        ),
        groups=frozenset(shape.group for shape in own),
        lifetime_seconds=lifetime_seconds,
        gone=gone,
    )


def hostile_batch() -> Batch:
    """Return guests with names that must be escaped, and unusual numbers."""
    odd = Shape(
        "odd",
        tuple(
            Series(_ODD, (("key", key),))
            for key in ("nan", "inf", "minus", "true", "tiny", "100%s")
        ),
    )
    values = (float("nan"), float("inf"), float("-inf"), True, 5e-324, -(2**63))
    shapes = make_shapes()
    guests = [make_domain(number, name) for number, name in enumerate(HOSTILE_NAMES)]
    batch = make_batch(guests, shapes=shapes)
    return Batch(
        source="bulk",
        taken_at=TAKEN_AT,
        readings=(
            *batch.readings,
            *(Reading(guest, odd, values) for guest in guests),
            Reading(None, odd, values),
        ),
        groups=batch.groups | {"odd"},
    )


def _letters(number: int) -> str:
    rest, last = divmod(number, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("a") + last)
