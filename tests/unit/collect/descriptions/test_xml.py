"""What XML says, of every kind that libvirt accepts."""

from __future__ import annotations

import pytest

from virtstatd.catalog import load
from virtstatd.collect.descriptions.xml import (
    DEPTH_MAX,
    XML_MAX_BYTES,
    Describer,
    Undescribable,
    parsed_xml,
)
from virtstatd.model import Domain


CATALOG = load()
VM = Domain("u", "vm", 1, (("domain", "vm"),))
NOVA = "http://openstack.org/xmlns/libvirt/nova/"


def rows(xml: str, key: str) -> list[dict[str, str]]:
    """Return the labels of the info series of a key in the catalog's order."""
    field = CATALOG.line("domain", key).field
    (reading,) = Describer(CATALOG).readings(VM, parsed_xml(xml))
    return [dict(series.labels) for series in reading.shape.series if series.field == field]


def of_devices(*devices: str) -> str:
    """Return a domain with these devices."""
    return f"<domain type='kvm'><devices>{''.join(devices)}</devices></domain>"


@pytest.mark.parametrize(
    "metadata",
    [
        "<x:a xmlns:x='urn:x'><![CDATA[<!DOCTYPE html><p>hello</p>]]></x:a>",
        "<x:a xmlns:x='urn:x'><!-- <!DOCTYPE html> -->a</x:a>",
        "<x:a xmlns:x='urn:x'><?php <!DOCTYPE html> ?></x:a>",
        "<x:a xmlns:x='urn:x'>&lt;!DOCTYPE html&gt;</x:a>",
        "<x:a xmlns:x='urn:x'><y:b y:c='1' z:c='2'/></x:a>",
        "<a xmlns='urn:x'><b xmlns=''/></a>",
        "<x:a xmlns:x='urn:x'>\N{GRINNING FACE}</x:a>",
        "<x:a xmlns:x='urn:x'>" + "<b>" * 250 + "</b>" * 250 + "</x:a>",
    ],
    ids=["CDATA", "comment", "instruction", "escaped", "undeclared", "none", "emoji", "deep"],
)
def test_what_an_owner_writes_hides_no_guest(metadata: str):
    """Whatever libvirt takes as metadata, the guest is described and its own metadata is read."""
    nova = f"<n:instance xmlns:n='{NOVA}1.1'><n:name>web</n:name></n:instance>"
    xml = f"<domain type='kvm'><metadata>{metadata}{nova}</metadata><title>t</title></domain>"
    assert rows(xml, "domain") == [{"uuid": "u", "type": "kvm", "title": "t"}]
    assert rows(xml, "openstack") == [{"instance_name": "web"}]


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ("<!DOCTYPE domain><domain/>", "document type"),
        ("<?xml version='1.0'?>\n<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>", "type"),
        ("<domain>&a;</domain>", "malformed"),
        ("<domain><a></domain>", "malformed"),
        ("", "malformed"),
        ("<a>" * (DEPTH_MAX + 1), "within each other"),
        ("<domain>" + " " * XML_MAX_BYTES + "</domain>", "larger than"),
    ],
    ids=["document type", "entity", "unknown entity", "open", "empty", "too deep", "too large"],
)
def test_what_libvirt_never_writes_is_refused(xml: str, reason: str):
    """A real document type, malformed text, and what would cost the host memory."""
    with pytest.raises(Undescribable, match=reason):
        parsed_xml(xml)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "2.0"])
def test_any_version_of_novas_metadata_is_read(version: str):
    """A later name space is the same metadata; what it lacks is absent, not empty."""
    xml = (
        f"<domain><metadata><o:vm xmlns:o='urn:o'/>"
        f"<nova:instance xmlns:nova='{NOVA}{version}'><nova:name/>"
        "<nova:flavor name='m1.tiny' id='7'/><nova:owner><nova:user uuid='1'>ada</nova:user>"
        "</nova:owner></nova:instance></metadata><uuid>i</uuid></domain>"
    )
    assert rows(xml, "openstack") == [
        {"instance_id": "i", "flavor_name": "m1.tiny", "user_name": "ada", "user_id": "1"}
    ]


@pytest.mark.parametrize(
    ("kind", "source", "place"),
    [
        ("file", "<source file='/images/a.img'/>", "/images/a.img"),
        ("block", "<source dev='/dev/mapper/a'/>", "/dev/mapper/a"),
        ("dir", "<source dir='/fda'/>", "/fda"),
        ("network", "<source protocol='rbd' name='vms/a'><host name='c'/></source>", "vms/a"),
        ("volume", "<source pool='ssd' volume='a.img'/>", "ssd/a.img"),
        (
            "nvme",
            (
                "<source type='pci' namespace='1'>"
                "<address domain='0x0000' bus='0x01' slot='0x1f' function='0x7'/></source>"
            ),
            "0000:01:1f.7",
        ),
        (
            "nvme",
            (
                "<source type='pci' namespace='2'><address domain='0x0001' bus='0x0a' slot='0x00' "
                "function='0x0'/></source>"
            ),
            "0001:0a:00.0/2",
        ),
        ("vhostuser", "<source type='unix' path='/var/tmp/vhost.0'/>", "/var/tmp/vhost.0"),
        ("vhostvdpa", "<source dev='/dev/vhost-vdpa-0'/>", "/dev/vhost-vdpa-0"),
        (
            "network",
            "<source protocol='nbd'><host transport='unix' socket='/run/nbd.sock'/></source>",
            "/run/nbd.sock",
        ),
        (
            "network",
            "<source protocol='nbd'><host name='192.0.2.1' port='10809'/></source>",
            "192.0.2.1:10809",
        ),
        ("file", "", None),
    ],
)
def test_every_disk_says_where_it_is(kind: str, source: str, place: str | None):
    """Disks of different stores are different, whatever kind of disk they are."""
    xml = of_devices(f"<disk type='{kind}' device='disk'>{source}<target dev='vda'/></disk>")
    (row,) = rows(xml, "disk")
    assert row.get("source_file") == place
    assert row["disk_type"] == kind


def test_disks_say_what_they_are():
    """CD-ROMs and floppies can be left out; without a word it is a disk, as in libvirt."""
    kinds = ("disk", "cdrom", "floppy", "lun")
    disks = [f"<disk device='{kind}'><target dev='{kind}'/></disk>" for kind in kinds]
    found = rows(of_devices(*disks, "<disk><target dev='vda'/></disk>"), "disk")
    assert [(row["target_device"], row["device"]) for row in found] == [
        *((kind, kind) for kind in kinds),
        ("vda", "disk"),
    ]


def test_data_apart_from_its_image_is_told_of_too():
    """An image of metadata alone keeps the guest's data in another place."""
    store = "<dataStore type='network'><source protocol='rbd' name='pool/b'/></dataStore>"
    source = f"<source file='/images/b.qcow2'>{store}</source>"
    (row,) = rows(of_devices(f"<disk type='file'>{source}<target dev='vda'/></disk>"), "disk")
    assert (row["source_file"], row["data_store"]) == ("/images/b.qcow2", "pool/b")
    assert "source_protocol" not in row


def test_nics_without_a_device_are_told_of_by_their_address():
    """Those of hardware have no device of the host's; their address is what one joins by."""
    nics = [
        f"<interface type='{kind}'><mac address='52:54:00:00:00:0{at}'/>{target}</interface>"
        for at, (kind, target) in enumerate(
            [
                ("hostdev", ""),
                ("vdpa", "<source dev='/dev/vhost-vdpa-0'/>"),
                ("hostdev", "<target dev=''/>"),
                ("hostdev", "<target/>"),
                ("bridge", "<target dev='tap0'/>"),
            ]
        )
    ]
    found = rows(of_devices(*nics), "nic")
    assert [row["mac_address"][-1] for row in found] == list("01234")
    assert [row.get("target_device") for row in found] == [None, None, None, None, "tap0"]


def test_limits_of_disks_are_numbers():
    """What a disk may do at most is one series for each limit that is set, whatever is written."""
    tuned = "<total_bytes_sec>1048576</total_bytes_sec><read_iops_sec>0</read_iops_sec>"
    more = "<write_iops_sec> 300 </write_iops_sec>"
    hostile = "<total_bytes_sec>1e9</total_bytes_sec><write_iops_sec>-5</write_iops_sec>"
    xml = of_devices(
        f"<disk><target dev='vda'/><iotune>{tuned}</iotune></disk>",
        f"<disk><target dev='vdb'/><iotune>{tuned}{more}</iotune></disk>",
        f"<disk><target dev='vdc'/><iotune>{hostile}</iotune></disk>",
    )
    (reading,) = Describer(CATALOG).readings(VM, parsed_xml(xml))
    limits = {
        (series.field.family, dict(series.labels)["target_device"]): number
        for series, number in zip(reading.shape.series, reading.values, strict=True)
        if "_limit_" in series.field.family
    }
    prefix = "libvirt_domain_block_stats_limit"
    assert limits == {
        (f"{prefix}_total_bytes_per_second", "vda"): 1048576,
        (f"{prefix}_total_bytes_per_second", "vdb"): 1048576,
        (f"{prefix}_write_requests_per_second", "vdb"): 300,
    }
