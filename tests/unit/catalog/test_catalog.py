import subprocess
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from support.servers import needs
from virtstatd.catalog import Catalog, load
from virtstatd.errors import ConfigError
from virtstatd.model import Kind


HEADER = 'group = "invented"\nbit = 4096\nprefix = "libvirt_domain_invented"\n[fields]\n'
TAKEN = 'prefix = "libvirt_domain_vm", name = "kvm_info"'
LIBVIRT = {
    "state": 1,
    "cpu": 2,
    "balloon": 4,
    "vcpu": 8,
    "net": 16,
    "block": 32,
    "perf": 64,
    "iothread": 128,
    "memory": 256,
    "dirtyrate": 512,
    "vm": 1024,
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Return the package's catalog."""
    return load()


def faults(tmp_path: Path, text: str) -> list[str]:
    """Load a further file with this text, and return the faults that are found in it."""
    file = tmp_path / "extra.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    return [fault.removeprefix(f"{file}: ") for fault in caught.value.faults]


def metric(family: str, kind: Kind) -> str:
    """Return a family's name as Prometheus shows it."""
    return family + ("_total" if kind is Kind.COUNTER else "")


def test_groups(catalog: Catalog):
    """Every group of libvirt is there under its bit, and those that need no monitor say so."""
    bits = {group.name: group.bit for group in catalog.groups.values() if group.bit}
    assert bits == LIBVIRT
    free = {group.name for group in catalog.groups.values() if group.bit and not group.monitor}
    assert free == {"state", "net", "perf", "memory"}
    assert {name for name, group in catalog.groups.items() if not group.bit} == {
        "agent",
        "control",
        "cpu_stats",
        "defined",
        "disk_errors",
        "domain",
        "event",
        "events",
        "finding",
        "job",
        "jobs",
        "last_job",
        "guest",
        "guest_cpu",
        "guest_facts",
        "guest_filesystem",
        "local",
        "network",
        "node",
        "partition",
        "storage",
        "storage_pool",
        "tunable",
        "unknown",
    }


def test_one_file_per_group():
    """A group's file bears the group's name."""
    for file in resources.files("virtstatd.catalog").iterdir():
        if file.name.endswith(".toml") and file.name != "enums.toml":
            assert tomllib.loads(file.read_text())["group"] == file.name.removesuffix(".toml")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("state.state", "libvirt_domain_info_state"),
        ("cpu.time", "libvirt_domain_info_cpu_time_seconds_total"),
        ("vcpu.3.delay", "libvirt_domain_vcpu_delay_seconds_total"),
        ("block.0.rd.times", "libvirt_domain_block_stats_read_time_seconds_total"),
        ("block.0.fl.reqs", "libvirt_domain_block_stats_flush_requests_total"),
        ("block.0.capacity", "libvirt_domain_block_stats_capacity_bytes"),
        ("net.0.rx.pkts", "libvirt_domain_interface_stats_receive_packets_total"),
        ("net.0.tx.drop", "libvirt_domain_interface_stats_transmit_drops_total"),
        ("balloon.rss", "libvirt_domain_memory_stats_rss_bytes"),
        ("balloon.swap_in", "libvirt_domain_memory_stats_swap_in_bytes_total"),
        ("balloon.major_fault", "libvirt_domain_memory_stats_major_fault_total"),
        ("vcpu.0.exits.sum", "libvirt_domain_vcpu_kvm_total"),
        ("vm.pages_4k.cur", "libvirt_domain_vm_kvm_current"),
        ("vcpu.7.never_heard_of.max", "libvirt_domain_vcpu_kvm_maximum"),
    ],
)
def test_names_on_dashboards(catalog: Catalog, key: str, name: str):
    """Names that dashboards in use rely on never change."""
    match = catalog.match(key)
    assert match
    field = match.lines[0].field
    assert field
    assert metric(field.family, field.kind) == name


def test_one_number_two_names(catalog: Catalog):
    """What the widespread exporter has under two names has both here."""
    match = catalog.match("balloon.current")
    assert match
    assert [line.field and line.field.family for line in match.lines] == [
        "libvirt_domain_memory_stats_current_balloon_bytes",
        "libvirt_domain_info_memory_usage_bytes",
    ]


def test_literal_before_placeholder(catalog: Catalog):
    """A key that is written out wins over one that a placeholder would fit as well."""
    match = catalog.match("cpu.energy.monitor.0.pkg.1.id")
    other = catalog.match("cpu.energy.monitor.0.pkg.1.core_energy")
    assert match
    assert other
    assert match.lines[0].label == "package"
    assert other.lines[0].labels == ("monitor", "package", "event")


@pytest.mark.parametrize(
    "key",
    ["", "vcpu", "vcpu.0", "vcpu.0.time.more", "nothing.at.all", ".", "agent.up", "domain.nic"],
)
def test_no_match(catalog: Catalog, key: str):
    """A key that no pattern fits has no match, whatever it is."""
    assert catalog.match(key) is None


@needs("promtool")
def test_promtool(catalog: Catalog):
    """Every metric that can appear passes Prometheus' linter."""
    text = []
    for field in dict.fromkeys(line.field for line in catalog.fields if line.field):
        name = metric(field.family, field.kind)
        kind = {Kind.INFO: "gauge", Kind.UNKNOWN: "untyped"}.get(field.kind, field.kind.value)
        text.append(f"# HELP {name} {field.help}\n# TYPE {name} {kind}")
        if field.kind is Kind.HISTOGRAM:
            text.append(f'{name}_bucket{{le="+Inf"}} 1\n{name}_sum 1\n{name}_count 1')
        else:
            text.append(f"{name} 1")
    lint = subprocess.run(
        ["promtool", "check", "metrics"],
        input="\n".join(text) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


def test_shape(catalog: Catalog):
    """A source composes its shape from keys and labels, histograms included."""
    shape = catalog.shape(
        "agent",
        [
            ("up", ()),
            ("calls", {"tier": "pulse", "outcome": "good"}),
            ("calls", (("tier", "pulse"), ("outcome", "late"))),
            *catalog.histogram("agent", "call_duration", ["0.1", "1"], {"tier": "pulse"}),
        ],
    )
    assert [(one.part, one.labels[-1:]) for one in shape.series[3:]] == [
        ("bucket", (("le", "0.1"),)),
        ("bucket", (("le", "1"),)),
        ("bucket", (("le", "+Inf"),)),
        ("sum", (("tier", "pulse"),)),
        ("count", (("tier", "pulse"),)),
    ]


def test_shape_info(catalog: Catalog):
    """An info series may lack labels; a label that its line does not have is a fault."""
    shape = catalog.shape("domain", [("nic", {"target_device": "vnet0"})])
    assert shape.series[0].labels == (("target_device", "vnet0"),)
    with pytest.raises(ValueError, match=r"domain\.nic has the labels"):
        catalog.shape("domain", [("nic", {"device": "vnet0"})])


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        ([("calls", {"tier": "pulse"})], "has the labels"),
        ([("nonsense", ())], "no series under the key nonsense"),
        ([("up", ()), ("up", ())], "occurs twice"),
        ([("up", ()), ("domains", ()), ("up", ())], "not neighbours"),
    ],
)
def test_shape_faults(catalog: Catalog, items: list[tuple[str, dict[str, str]]], complaint: str):
    """A shape that would break a sink's format is refused where it is composed."""
    with pytest.raises(ValueError, match=complaint):
        catalog.shape("agent", items)


def test_table(catalog: Catalog):
    """Both tables have one row per series, and the name as Prometheus shows it."""
    plain = catalog.table("text").splitlines()
    markdown = catalog.table("markdown").splitlines()
    assert len(plain) - 1 == len(markdown) - 2 == len(catalog.fields)
    row = next(line for line in plain if "vcpu.{vcpu}.delay" in line)
    assert row.split()[:5] == [
        "libvirt_domain_vcpu_delay_seconds_total",
        "counter",
        "seconds",
        "vcpu.{vcpu}.delay",
        "7.2.0",
    ]
    assert any(
        line.startswith("| `libvirt_domain_vcpu_kvm_total` | counter |") for line in markdown
    )
    assert {line.count(" | ") for line in markdown} == {5}


def test_extra_line(tmp_path: Path):
    """A line in a further file is a statistic like any other, without any code."""
    file = tmp_path / "extra.toml"
    file.write_text(
        'group = "vcpu"\n[fields]\n"{vcpu}.naps" = '
        '{ name = "naps", kind = "counter", help = "Naps that the vCPU took." }\n'
    )
    for extra in (file, tmp_path):
        catalog = load(extra)
        match = catalog.match("vcpu.2.naps")
        assert match
        assert "libvirt_domain_vcpu_naps_total" in catalog.table()
        assert "Naps that the vCPU took." in catalog.table("markdown")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('"x" = { kind = "count" }', '"x": Invalid enum value'),
        ('"x" = { kind = "gauge", nam = "x" }', '"x": Object contains unknown field `nam`'),
        ('"x" = 3', '"x": Expected `object`'),
        ('"x" = { kind = "gauge", name = "x", help = "No stop" }', '"x": help: must be one'),
        ('"x" = { kind = "gauge", name = "x", help = "One. Two." }', '"x": help: must be one'),
        ('"x" = { kind = "gauge", name = "x", unit = "ms", help = "A." }', "\"x\": unit: 'ms'"),
        ('"x" = { kind = "gauge", name = "x_total", help = "A." }', '"x": name:'),
        ('"x" = { kind = "gauge", name = "X", help = "A." }', '"x": name:'),
        ('"x" = { kind = "gauge", name = "x_info", help = "A." }', '"x": name: those of info'),
        (
            '"x" = { kind = "info", name = "x", label = "y", help = "A." }',
            '"x": name: those of info',
        ),
        ('"x" = { kind = "gauge", name = "x", factor = 0, help = "A." }', '"x": factor: must'),
        ('"x" = { kind = "gauge", name = "x", enum = "no", help = "A." }', '"x": enum: no'),
        ('"a..b" = { kind = "gauge", name = "x", help = "A." }', "\"a..b\": '' is neither"),
        ('"{a}b" = { kind = "gauge", name = "x", help = "A." }', "\"{a}b\": '{a}b' is neither"),
        ('"x" = { kind = "start" }', '"x": a start needs a placeholder'),
        ('"x" = { kind = "info", name = "x_info", help = "A." }', '"x": label: an info needs'),
        ('"x" = { kind = "gauge", name = "x", help = "A.", labels = ["y"] }', '"x": labels: here'),
        ('"x" = [{ kind = "size" }, { kind = "size" }]', '"x": only a number can have several'),
        ('"x" = { kind = "label", label = "x" }', '"x": label: must be one of'),
        ('"{x}.n" = { kind = "label", label = "x", name = "y" }', '"{x}.n": a label has no name'),
        ('"{le}" = { kind = "gauge", name = "x", help = "A." }', "\"{le}\": 'le' cannot be"),
        (
            '"x" = { kind = "gauge", name = "state", prefix = "libvirt_domain_info", help = "A." }',
            "\"x\": name: 'libvirt_domain_info_state' is another",
        ),
        (
            f'"x" = {{ kind = "info", {TAKEN}, label = "y", help = "A." }}',
            "\"x\": name: 'libvirt_domain_vm_kvm' is another",
        ),
    ],
)
def test_faulty_line(tmp_path: Path, line: str, fault: str):
    """A line that cannot be meant is refused with its file, its key and what is wrong."""
    found = faults(tmp_path, HEADER + line + "\n")
    assert [one[: len(fault)] for one in found] == [fault]


def test_faulty_patterns(tmp_path: Path):
    """One position of a key has one label in all patterns, and keys are given once."""
    found = faults(
        tmp_path,
        'group = "vcpu"\n[fields]\n'
        '"{cpu}.naps" = { name = "naps", kind = "counter", help = "A." }\n'
        '"{vcpu}.time" = { name = "naps", kind = "counter", help = "A." }\n',
    )
    assert found == [
        '"{vcpu}.time": the group has this key already',
        'vcpu.toml: "{cpu}.naps": {cpu} is {vcpu} in another key',
    ]


def test_all_faults_at_once(tmp_path: Path):
    """Every fault of every file is reported, not the first alone."""
    (tmp_path / "a.toml").write_text("group = ")
    (tmp_path / "b.toml").write_text('group = "b"\n[fields]\n')
    (tmp_path / "c.toml").write_text(HEADER + '"x" = 1\n"y" = 2\n')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert [Path(fault.split(":")[0]).name for fault in caught.value.faults] == [
        "a.toml",
        "b.toml",
        "c.toml",
        "c.toml",
    ]


def test_unreadable(tmp_path: Path):
    """A further file that cannot be read is a fault like any other."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "gone.toml")
    assert caught.value.faults == [f"{tmp_path / 'gone.toml'}: No such file or directory"]
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"binary\.toml: "):
        load(tmp_path)
