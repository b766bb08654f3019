"""Limits of a running domain, from the parameters that libvirt gives."""

import libvirt
import pytest

from virtstatd.catalog import load
from virtstatd.collect.descriptions.limits import Parameters, Tunables, parameters
from virtstatd.model import Domain


CATALOG = load()
DOMAIN = Domain("u", "vm", 1, (("domain", "vm"),))
NONE: Parameters = {
    "scheduler": {"cpu_shares": 1024, "vcpu_period": 100000, "vcpu_quota": -1},
    "memory": dict.fromkeys(("hard_limit", "soft_limit", "swap_hard_limit"), 9007199254740991),
    "blkio": {"weight": 100, "device_weight": "", "device_read_bytes_sec": ""},
    "numa": {"numa_mode": 0, "numa_nodeset": ""},
}


def shown(of: Parameters) -> dict[str, float]:
    """Return what becomes of parameters, in base units."""
    return {
        " ".join(
            (s.field.family.removeprefix("libvirt_domain_tunable_"), *(v for _, v in s.labels))
        ): value / 10**-s.field.exponent
        for reading in Tunables(CATALOG).readings(DOMAIN, of)
        for s, value in zip(reading.shape.series, reading.values, strict=True)
    }


def test_what_is_not_limited_is_absent():
    """A guest without any tuning has its weights and the length of a period, and no limits."""
    assert shown(NONE) == {
        "cpu_shares": 1024,
        "cpu_period_seconds vcpu": 0.1,
        "blkio_weight": 100,
    }


@pytest.mark.parametrize("quota", [-1, 0, 18446744073709551, 17592186044416])
def test_every_form_of_no_quota_is_absent(quota: int):
    """Cgroup v1 says -1, v2 its largest number of microseconds, a guest without threads 0."""
    assert shown({"scheduler": {"vcpu_quota": quota}}) == {}


@pytest.mark.parametrize("kib", [9007199254740991, 9007199254740988, 9007199254740928, 0, 1 << 54])
def test_every_form_of_no_memory_limit_is_absent(kib: int):
    """Libvirt's own number for it, and the kernel's, rounded down to pages of 4 or 64 KiB."""
    assert shown({"memory": {"hard_limit": kib}}) == {}


def test_every_limit_has_its_series():
    """Each of libvirt's parameters appears in base units: bytes of KiB, seconds of microseconds."""
    quotas = {"vcpu": 50000, "emulator": 60000, "iothread": 70000, "global": 80000}
    of: Parameters = {
        "scheduler": {
            "cpu_shares": 2048,
            **{f"{whom}_period": 200000 for whom in quotas},
            **{f"{whom}_quota": quota for whom, quota in quotas.items()},
        },
        "memory": {"hard_limit": 500, "soft_limit": 300, "swap_hard_limit": 700},
        "blkio": {
            "weight": 500,
            "device_weight": "/dev/sda,200,/dev/sdb,300",
            "device_read_iops_sec": "/dev/sda,11",
            "device_write_iops_sec": "/dev/sda,12",
            "device_read_bytes_sec": "/dev/sda,13,/dev/sdb,0",
            "device_write_bytes_sec": "/dev/sda,14",
        },
        "numa": {"numa_mode": 2, "numa_nodeset": "0-1,3"},
    }
    assert shown(of) == {
        "cpu_shares": 2048,
        **{f"cpu_period_seconds {whom}": 0.2 for whom in quotas},
        **{f"cpu_quota_seconds {w}": quota / 10**6 for w, quota in quotas.items()},
        "memory_hard_limit_bytes": 512000,
        "memory_soft_limit_bytes": 307200,
        "memory_swap_hard_limit_bytes": 716800,
        "blkio_weight": 500,
        "blkio_device_weight /dev/sda": 200,
        "blkio_device_weight /dev/sdb": 300,
        "blkio_read_limit_requests_per_second /dev/sda": 11,
        "blkio_write_limit_requests_per_second /dev/sda": 12,
        "blkio_read_limit_bytes_per_second /dev/sda": 13,
        "blkio_write_limit_bytes_per_second /dev/sda": 14,
        "numa_info interleave 0-1,3": 1,
    }


def test_strange_parameters_are_left_out():
    """What another driver or a later libvirt says under these names fails nothing."""
    strange: Parameters = {
        "scheduler": {"weight": 256, "cap": 0, "cpu_shares": "many", "vcpu_quota": "none"},
        "blkio": {"device_weight": "/dev/sda,fast,/dev/sdb", "device_read_iops_sec": ","},
        "numa": {"numa_mode": 9, "numa_nodeset": "0"},
        "new": {"thing": 1},
    }
    assert shown(strange) == {}
    assert Tunables(CATALOG).readings(DOMAIN, {}) == ()


class Handle:
    """A domain that knows nothing of blkio, on a connection that lives or does not."""

    alive = True

    def connect(self) -> "Handle":
        """Return the connection."""
        return self

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        """Tell whether it lives."""
        return self.alive

    def schedulerParametersFlags(self, flags: int) -> dict[str, int]:  # noqa: N802 - as above
        """Answer for the running domain."""
        assert flags == libvirt.VIR_DOMAIN_AFFECT_LIVE
        return {"cpu_shares": 7}

    def blkioParameters(self, _: int) -> dict[str, int]:  # noqa: N802 - as above
        """Refuse."""
        raise libvirt.libvirtError("blkio cgroup isn't mounted")

    memoryParameters = numaParameters = schedulerParametersFlags  # noqa: N815 - as above


def test_a_refused_part_costs_itself_alone():
    """A host without a controller has the others; only a lost connection is the caller's."""
    handle = Handle()
    assert set(parameters(handle)) == {"scheduler", "memory", "numa"}
    handle.alive = False
    with pytest.raises(libvirt.libvirtError):
        parameters(handle)
