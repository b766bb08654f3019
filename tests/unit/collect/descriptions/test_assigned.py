"""Devices of the host in the XML of a domain."""

import pytest

from virtstatd.catalog import shipped
from virtstatd.collect.descriptions.xml import Describer, parsed_xml
from virtstatd.testing import make_domain


PCI = """<hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/><source>
<address domain='0x0000' bus='0x06' slot='0x12' function='0x5'/></source><alias name='hostdev0'/>
<address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/></hostdev>"""
MDEV = """<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci' display='on'><source>
<address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source><alias name='hostdev1'/></hostdev>"""
USB = """<hostdev mode='subsystem' type='usb' managed='yes'><source startupPolicy='optional'>
<vendor id='0x1234'/><product id='0xbeef'/><address bus='3' device='7'/></source></hostdev>"""
SCSI = """<hostdev mode='subsystem' type='scsi' sgio='filtered' rawio='yes'><source>
<adapter name='scsi_host0'/><address bus='0' target='1' unit='2'/></source></hostdev>"""
VHOST = """<hostdev mode='subsystem' type='scsi_host'><source protocol='vhost'
wwpn='naa.50014057667280d8'/></hostdev>"""
BLOCK = """<hostdev mode='capabilities' type='storage'><source><block>/dev/sdf1</block></source>
</hostdev>"""
VF = """<interface type='hostdev' managed='yes'><mac address='52:54:00:6d:90:02'/>
<driver name='vfio'/><source>
<address type='pci' domain='0x0000' bus='0x07' slot='0x00' function='0x1'/></source>
<alias name='hostdev2'/></interface>"""


def found(*devices: str) -> list[dict[str, str]]:
    """Return the labels of the devices that a domain's XML names."""
    root = parsed_xml(f"<domain type='kvm'><devices>{''.join(devices)}</devices></domain>")
    (reading,) = Describer(shipped()).readings(make_domain(0), root)
    return [
        dict(series.labels)
        for series in reading.shape.series
        if series.field.family == "libvirt_domain_hostdev_info"
    ]


@pytest.mark.parametrize(
    ("xml", "labels"),
    [
        (
            PCI,
            {"device": "hostdev0", "type": "pci", "address": "0000:06:12.5", "driver": "vfio"},
        ),
        (
            MDEV,
            {
                "device": "hostdev1",
                "type": "mdev",
                "mdev_uuid": "c2177883-f1bb-47f0-914d-32a22e3a8804",
                "model": "vfio-pci",
            },
        ),
        (USB, {"type": "usb", "address": "3:7", "product": "1234:beef"}),
        (SCSI, {"type": "scsi", "address": "scsi_host0:0:1:2"}),
        (VHOST, {"type": "scsi_host", "address": "naa.50014057667280d8"}),
        (BLOCK, {"type": "storage", "address": "/dev/sdf1"}),
        ("<hostdev type='hoverboard'><source/></hostdev>", {"type": "hoverboard"}),
        ("<hostdev/>", {}),
    ],
)
def test_devices_of_each_type(xml: str, labels: dict[str, str]):
    """Each has its type and its place on the host; a type that nobody knows is passed on."""
    assert found(xml) == [labels | {"use": "device"}]


def test_an_interface_that_is_a_function_with_sr_iov():
    """It has the function's address beside its MAC, and other interfaces are none."""
    assert found(VF, "<interface type='bridge'><source bridge='br0'/></interface>") == [
        {
            "device": "hostdev2",
            "type": "pci",
            "use": "interface",
            "address": "0000:07:00.1",
            "driver": "vfio",
            "mac_address": "52:54:00:6d:90:02",
        }
    ]


def test_odd_ones():
    """Devices that cannot be told apart are one series, and an address that is none is left out."""
    bad = PCI.replace("bus='0x06'", "bus='six'").replace("<alias name='hostdev0'/>", "")
    assert found(USB, USB, bad) == [
        {"type": "usb", "use": "device", "address": "3:7", "product": "1234:beef"},
        {"type": "pci", "use": "device", "driver": "vfio"},
    ]
