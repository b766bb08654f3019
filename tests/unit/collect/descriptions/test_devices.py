"""What a domain's devices are, and what they may do at most."""

from __future__ import annotations

import pytest

from virtstatd.catalog import load
from virtstatd.collect.descriptions.xml import Describer, parsed_xml
from virtstatd.model import Domain


CATALOG = load()
VM = Domain("u", "vm", 1, (("domain", "vm"),))
DISK = "libvirt_domain_block_stats"
NIC = "libvirt_domain_interface_stats"

Limits = dict[tuple[str, ...], int | float]


def described(*devices: str, more: str = "") -> Limits:
    """Return the numbers of a domain with these devices by metric and labels' values."""
    xml = f"<domain type='kvm'>{more}<devices>{''.join(devices)}</devices></domain>"
    (reading,) = Describer(CATALOG).readings(VM, parsed_xml(xml))
    return {
        (series.field.family, *(text for _, text in series.labels)): number
        for series, number in zip(reading.shape.series, reading.values, strict=True)
    }


def labels(key: str, *devices: str, more: str = "") -> list[dict[str, str]]:
    """Return the labels of an info series."""
    xml = f"<domain type='kvm'>{more}<devices>{''.join(devices)}</devices></domain>"
    (reading,) = Describer(CATALOG).readings(VM, parsed_xml(xml))
    field = CATALOG.line("domain", key).field
    return [dict(series.labels) for series in reading.shape.series if series.field == field]


def test_bursts_of_disks_have_limits_and_lengths():
    """A burst is told apart from what a disk may do all the time; what is not set is absent."""
    tuned = (
        "<total_bytes_sec>1000000</total_bytes_sec><total_bytes_sec_max>5000000"
        "</total_bytes_sec_max><total_bytes_sec_max_length>3</total_bytes_sec_max_length>"
        "<write_iops_sec_max>70</write_iops_sec_max><size_iops_sec>4096</size_iops_sec>"
        "<group_name>shared</group_name>"
    )
    disk = f"<disk><target dev='vda'/><iotune>{tuned}</iotune></disk>"
    found = described(disk, "<disk><target dev='vdb'/></disk>")
    assert {key: number for key, number in found.items() if "_limit_" in key[0]} == {
        (f"{DISK}_limit_total_bytes_per_second", "vda"): 1_000_000,
        (f"{DISK}_limit_burst_total_bytes_per_second", "vda"): 5_000_000,
        (f"{DISK}_limit_burst_write_requests_per_second", "vda"): 70,
        (f"{DISK}_limit_burst_length_seconds", "vda", "total_bytes"): 3,
        (f"{DISK}_limit_request_size_bytes", "vda"): 4096,
    }
    first, second = labels("disk", disk, "<disk><target dev='vdb'/></disk>")
    assert first["limit_group"] == "shared"
    assert "limit_group" not in second


def test_the_alias_leads_from_an_event_to_the_device():
    """Libvirt's events name a disk by its alias, the other series by its target."""
    (shown,) = labels("disk", "<disk><target dev='vda'/><alias name='virtio-disk0'/></disk>")
    assert (shown["target_device"], shown["alias"]) == ("vda", "virtio-disk0")
    (without,) = labels("disk", "<disk><target dev='vda'/></disk>")
    assert "alias" not in without


def test_throttle_groups_are_limits_too():
    """Of several limits of one kind the lowest holds, and the groups are named."""
    groups = "".join(
        f"<throttlegroup><group_name>{name}</group_name><total_iops_sec>{most}</total_iops_sec>"
        f"{more}</throttlegroup>"
        for name, most, more in (
            ("slow", 100, ""),
            ("fast", 900, "<write_bytes_sec>5</write_bytes_sec>"),
            ("other", 1, ""),
        )
    )
    own = "<iotune><total_iops_sec>500</total_iops_sec></iotune>"
    disks = [
        f"<disk><target dev='{device}'/><throttlefilters>{filters}</throttlefilters>{tuned}</disk>"
        for device, names, tuned in (("vda", "fast slow", ""), ("vdb", "fast gone", own))
        for filters in ["".join(f"<throttlefilter group='{name}'/>" for name in names.split())]
    ]
    more = f"<throttlegroups>{groups}</throttlegroups>"
    found = described(*disks, more=more)
    assert {key: number for key, number in found.items() if "_limit_" in key[0]} == {
        (f"{DISK}_limit_total_requests_per_second", "vda"): 100,
        (f"{DISK}_limit_total_requests_per_second", "vdb"): 500,
        (f"{DISK}_limit_write_bytes_per_second", "vda"): 5,
        (f"{DISK}_limit_write_bytes_per_second", "vdb"): 5,
    }
    shown = labels("disk", *disks, more=more)
    assert [disk["limit_group"] for disk in shown] == ["fast,slow", "fast,gone"]


def test_nics_say_where_they_lead():
    """Networks, port groups, ports of Open vSwitch, devices of the host and VLANs."""
    nics = (
        (
            "<interface type='bridge'><mac address='52:54:00:00:00:01'/>"
            "<source network='ovs' portgroup='db' portid='p' bridge='br-int'/>"
            "<vlan trunk='yes'><tag id='42'/><tag id='47' nativeMode='untagged'/></vlan>"
            "<virtualport type='openvswitch'><parameters interfaceid='0a-1' profileid='gold'/>"
            "</virtualport><target dev='tap0'/><model type='virtio'/></interface>"
        ),
        (
            "<interface type='direct'><source dev='eth1' mode='bridge'/>"
            "<target dev='macvtap0'/></interface>"
        ),
    )
    assert labels("nic", *nics) == [
        {
            "target_device": "tap0",
            "interface_type": "bridge",
            "source_bridge": "br-int",
            "source_network": "ovs",
            "source_portgroup": "db",
            "mac_address": "52:54:00:00:00:01",
            "model_type": "virtio",
            "virtual_port_type": "openvswitch",
            "virtual_interface": "0a-1",
            "virtual_port_profile": "gold",
            "vlan": "42,47",
        },
        {"target_device": "macvtap0", "interface_type": "direct", "source_device": "eth1"},
    ]


def test_bandwidth_is_in_bytes():
    """tc(8) is given kilobytes of 1000 bytes for rates and of 1024 for a burst."""
    bandwidth = (
        "<bandwidth><inbound average='1000' peak='5000' floor='200' burst='1024'/>"
        "<outbound average='128' burst='-1'/></bandwidth>"
    )
    found = described(
        f"<interface type='bridge'><target dev='tap0'/>{bandwidth}</interface>",
        f"<interface type='hostdev'>{bandwidth}</interface>",
    )
    assert {key: number for key, number in found.items() if "_limit_" in key[0]} == {
        (f"{NIC}_limit_receive_average_bytes_per_second", "tap0"): 1_000_000,
        (f"{NIC}_limit_receive_peak_bytes_per_second", "tap0"): 5_000_000,
        (f"{NIC}_limit_receive_floor_bytes_per_second", "tap0"): 200_000,
        (f"{NIC}_limit_receive_burst_bytes", "tap0"): 1 << 20,
        (f"{NIC}_limit_transmit_average_bytes_per_second", "tap0"): 128_000,
    }


@pytest.mark.parametrize(
    ("backing", "facts"),
    [
        ("", None),
        ("<memoryBacking/>", None),
        ("<memoryBacking><hugepages/></memoryBacking>", {"huge_pages": "yes"}),
        (
            (
                "<memoryBacking><hugepages><page size='1048576' unit='KiB' nodeset='1'/>"
                "<page size='2' unit='MiB'/><page size='x'/><page size='1' unit='PiB'/></hugepages>"
                "<locked/><source type='memfd'/><access mode='shared'/></memoryBacking>"
            ),
            {
                "huge_pages": "yes",
                "huge_page_bytes": "2097152,1073741824",
                "source_type": "memfd",
                "access_mode": "shared",
                "locked": "yes",
            },
        ),
    ],
)
def test_memory_says_what_it_is_made_of(backing: str, facts: dict[str, str] | None):
    """Sizes are in bytes, those in an unknown unit are left out, and so is what is not said."""
    assert labels("memory_backing", more=backing) == ([facts] if facts else [])


def test_a_floor_of_the_way_out_costs_nothing_else():
    """The outbound side has no guaranteed rate in libvirt: one that is written is left out."""
    bandwidth = "<bandwidth><outbound average='1' floor='9'/></bandwidth>"
    found = described(f"<interface><target dev='tap0'/>{bandwidth}</interface>")
    assert found[f"{NIC}_limit_transmit_average_bytes_per_second", "tap0"] == 1000
