"""Labels from what strangers write into a guest's metadata."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtstatd.catalog import load
from virtstatd.collect.descriptions.metadata import (
    CHILDREN_MAX,
    ELEMENTS_MAX,
    VALUE_MAX,
    Metadata,
    MetadataLabel,
    MetadataOptions,
)
from virtstatd.collect.descriptions.xml import Describer, Undescribable, parsed_xml
from virtstatd.config.file import parse_config
from virtstatd.errors import ConfigError
from virtstatd.model import Domain


OWN = "https://example.org/vm/2"


def guest(name: str = "vm") -> Domain:
    """Return a guest of this name."""
    return Domain("u", name, 1, (("domain", name),))


def labels(inner: str, options: MetadataOptions | None = None, name: str = "vm") -> dict[str, str]:
    """Return the labels of a guest with this in its XML."""
    root = parsed_xml(f"<domain>{inner}</domain>")
    return dict(Metadata(options or MetadataOptions()).labels(guest(name), root))


def own(**paths: str) -> MetadataOptions:
    """Return a mapping of labels alone."""
    wanted = [
        MetadataLabel(label=name, namespace="https://example.org/vm/*", path=path)
        for name, path in paths.items()
    ]
    return MetadataOptions(presets=(), labels=tuple(wanted))


ONE = "http://opennebula.org/xmlns/libvirt/1.0"
CLOUDS = {
    "nova": (
        "instance-00000001",
        (
            "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>"
            "<nova:name>web</nova:name><nova:flavor name='m1'/><nova:owner>"
            "<nova:user uuid='1'>ada</nova:user><nova:project uuid='2'>shop</nova:project>"
            "</nova:owner></nova:instance></metadata>"
        ),
        {
            "orchestrator": "nova",
            "instance_name": "web",
            "instance_id": "u",
            "flavor_name": "m1",
            "user_name": "ada",
            "user_id": "1",
            "project_name": "shop",
            "project_id": "2",
        },
    ),
    "ovirt": (
        "vm",
        (
            "<metadata><ovirt-tune:qos xmlns:ovirt-tune='http://ovirt.org/vm/tune/1.0'/>"
            "<ovirt-vm:vm xmlns:ovirt-vm='http://ovirt.org/vm/1.0'>"
            "<ovirt-vm:clusterVersion>4.7</ovirt-vm:clusterVersion></ovirt-vm:vm>"
            "<o:tag xmlns:o='http://ovirt.org/ovirtmap/tag/1.0'>gold</o:tag></metadata>"
        ),
        {"orchestrator": "ovirt", "cluster_version": "4.7", "tag": "gold"},
    ),
    "opennebula": (
        "one-45",
        (
            f"<metadata><one:vm xmlns:one='{ONE}'><one:name><![CDATA[alpine]]></one:name>"
            "<one:uname><![CDATA[ada]]></one:uname><one:uid>3</one:uid>"
            "<one:gname><![CDATA[users]]></one:gname><one:gid>1</one:gid></one:vm></metadata>"
        ),
        {
            "orchestrator": "opennebula",
            "instance_name": "alpine",
            "instance_id": "45",
            "user_name": "ada",
            "user_id": "3",
            "project_name": "users",
            "project_id": "1",
        },
    ),
    "kubevirt": (
        "shop_web-0",
        (
            "<metadata><kubevirt xmlns='http://kubevirt.io'><uid>f46</uid><graceperiod/>"
            "</kubevirt></metadata>"
        ),
        {
            "orchestrator": "kubevirt",
            "instance_name": "web-0",
            "instance_id": "f46",
            "project_name": "shop",
        },
    ),
    "cloudstack": (
        "i-2-10-VM",
        (
            "<description>Debian GNU/Linux 12 (64-bit)</description><sysinfo type='smbios'>"
            "<system><entry name='manufacturer'>Apache Software Foundation</entry>"
            "<entry name='product'>CloudStack KVM Hypervisor</entry></system></sysinfo>"
        ),
        {
            "orchestrator": "cloudstack",
            "user_id": "2",
            "instance_id": "u",
            "os": "Debian GNU/Linux 12 (64-bit)",
        },
    ),
}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_each_cloud_writes(cloud: str):
    """The same label means the same in each cloud; a preset that is off reads nothing."""
    name, inner, expected = CLOUDS[cloud]
    options = MetadataOptions(presets=(cloud,))  # type: ignore[arg-type]
    assert labels(inner, options, name) == expected
    assert labels(inner, MetadataOptions(), name).items() >= expected.items()
    others = tuple(each for each in MetadataOptions().presets if each not in (cloud, "titles"))
    assert labels(inner, MetadataOptions(presets=others), name) == {}


def test_titles_and_the_operating_system():
    """What people and virt-install write is one line each."""
    inner = (
        "<title>web\n\tserver</title><description>of  Ada</description><metadata>"
        "<l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'>"
        "<l:os id='http://debian.org/debian/12'/></l:libosinfo></metadata>"
    )
    assert labels(inner) == {
        "title": "web server",
        "description": "of Ada",
        "os": "http://debian.org/debian/12",
    }


def test_a_mapping_of_ones_own():
    """Elements, attributes and the element itself, of any version; it wins over a preset."""
    inner = (
        f"<metadata><a:vm xmlns:a='{OWN}' a:x='1' team='red'>top<a:owner>x"
        "<a:project id='7'>shop</a:project><b/></a:owner></a:vm>"
        "<c:vm xmlns:c='https://example.org/other'>no</c:vm></metadata><title>t</title>"
    )
    options = own(
        tenant="owner/project", number="owner/project@id", team="@team", text="", no="owner/none/x"
    )
    assert labels(inner, options) == {
        "tenant": "shop",
        "number": "7",
        "team": "red",
        "text": "top",
    }
    mine = own(title="owner/project").labels
    assert labels(inner, MetadataOptions(labels=mine))["title"] == "shop"


def test_no_label_of_the_guest_occurs_twice():
    """With the UUID on every series a label of that name would be there twice."""
    root = parsed_xml(f"<domain><metadata><a xmlns='{OWN}'>x</a></metadata></domain>")
    domain = Domain("u", "vm", 1, (("domain", "vm"), ("team", "blue")))
    assert Metadata(own(team="")).labels(domain, root) == ()


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('labels = [{ label = "domain", namespace = "urn:x" }]', "a name of a label other than"),
        ('labels = [{ label = "__x", namespace = "urn:x" }]', "a name of a label other than"),
        ('labels = [{ label = "a-b", namespace = "urn:x" }]', "a name of a label other than"),
        ('labels = [{ label = "a" }]', "namespace: is missing"),
        ('labels = [{ label = "a", namespace = "u", path = "/a//b" }]', "names of elements"),
        ('labels = [{ label = "a", namespace = "u", xpath = "b" }]', "unknown option"),
        ('presets = ["openstack"]', "unknown value 'openstack'"),
    ],
)
def test_a_wrong_table_is_refused(line: str, fault: str):
    """What cannot be a label, and words that nobody knows, are faults with their place."""
    with pytest.raises(ConfigError, match=fault):
        parse_config(f"[metadata]\n{line}\n", "f")


HOSTILE = st.text(max_size=60)


@settings(max_examples=150)
@given(
    texts=st.lists(HOSTILE, min_size=1, max_size=5),
    names=st.lists(st.sampled_from(["vm", "owner", "project", "a"]), min_size=1, max_size=9),
    repeat=st.integers(1, 300),
)
def test_whatever_an_owner_writes_is_bounded(texts: list[str], names: list[str], repeat: int):
    """Values are short, one line and not empty, and a description either comes or says why not."""
    inside = "".join(f"<{name}><![CDATA[{texts[0] * repeat}]]></{name}>" for name in names)
    element = f"<x:vm xmlns:x='{OWN}' t='1'>{inside}</x:vm>"
    xml = f"<domain><title><![CDATA[{texts[-1]}]]></title><metadata>{element}</metadata></domain>"
    options = MetadataOptions(labels=own(a="vm", b="owner/project", c="a@t", d="").labels)
    try:
        (reading,) = Describer(load(), options).readings(guest(), parsed_xml(xml))
    except Undescribable:
        return
    for series in reading.shape.series:
        if series.field.family == "libvirt_domain_metadata_info":
            assert len(series.labels) == len(dict(series.labels)) > 0
            for _, value in series.labels:
                assert value
                assert len(value) <= VALUE_MAX
                assert " ".join(value.split()) == value


def test_many_elements_cost_little():
    """Of tens of thousands of elements only the first ones are looked at."""
    many = f"<a xmlns='{OWN}/3'/>" * 20_000
    inner = f"<metadata><a xmlns='{OWN}'>x</a>{many}<b xmlns='urn:b'>y</b></metadata>"
    wanted = (*own(first="").labels, MetadataLabel(label="last", namespace="urn:b"))
    assert len(parsed_xml(f"<d>{inner}</d>")[0]) > ELEMENTS_MAX
    assert labels(inner, MetadataOptions(presets=(), labels=wanted)) == {"first": "x"}
    deep = f"<metadata><a xmlns='{OWN}'>{'<b/>' * CHILDREN_MAX}<c>x</c></a></metadata>"
    assert labels(deep, own(late="c")) == {}
    assert labels(deep.replace("<b/>", "", 1), own(late="c")) == {"late": "x"}
