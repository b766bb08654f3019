"""The rules for Prometheus: they use metrics that exist, and fire in time."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from virtstatd.catalog import load
from virtstatd.commands.alerts import Alert, alerts_of


FOLDER = Path(__file__).parents[2] / "config" / "prometheus"
ALERTS = FOLDER / "alerts.yml"
RECORDING = FOLDER / "recording.yml"
SCRAPE_SECONDS = 15
MINUTES = 10
VCPUS = 2


def scrapes(each_second: list[float]) -> str:
    """Return what a scraper sees of a counter that grows by so much in each second."""
    total, seen = 0.0, []
    for second, grown in enumerate(each_second):
        total += grown
        if second % SCRAPE_SECONDS == 0:
            seen.append(f"{total:.3f}")
    return " ".join(seen)


def guest(name: str, host: str, waited: list[float]) -> list[dict[str, str]]:
    """Return the series of a guest whose first vCPU waited for these shares of its seconds."""
    labels = f'domain="{name}",instance="{host}"'
    stem = "libvirt_domain_steal_ratio"
    short = [float(VCPUS - (share > 0.2)) for share in waited]
    peaks = [
        max(waited[max(0, second - 59) : second + 1])
        for second in range(0, len(waited), SCRAPE_SECONDS)
    ]
    vcpu = f'{labels},vcpu="0"'
    return [
        {"series": f'{stem}_bucket{{{labels},le="0.2"}}', "values": scrapes(short)},
        {"series": f"{stem}_count{{{labels}}}", "values": scrapes([VCPUS] * len(waited))},
        {"series": f"libvirt_domain_steal_peak_ratio{{{labels}}}", "values": spaced(peaks)},
        {"series": f"libvirt_domain_vcpu_delay_seconds_total{{{vcpu}}}", "values": scrapes(waited)},
    ]


def spaced(numbers: list[float]) -> str:
    """Return numbers as the values of a series."""
    return " ".join(f"{number:.3f}" for number in numbers)


def promtool(*args: str | Path) -> str:
    """Run promtool, which must be content, and return what it says."""
    done = subprocess.run(["promtool", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def firing(name: str, minute: float, *labels: str) -> dict[str, object]:
    """Return what promtool is to expect: an alert that fires for exactly these, at a time."""
    by = "domain" if name.startswith("Guest") else "instance"
    return {
        "expr": f'count by ({by}) (ALERTS{{alertname="{name}", alertstate="firing"}})',
        "eval_time": f"{round(minute * 60)}s",
        "exp_samples": [{"labels": f'{{{by}="{label}"}}', "value": 1} for label in labels],
    }


def run_rules(
    folder: Path,
    series: list[dict[str, str]],
    *expected: dict[str, object],
) -> None:
    """Let promtool run the rules over series."""
    interval = f"{SCRAPE_SECONDS}s"
    test = {"interval": interval, "input_series": series, "promql_expr_test": expected}
    files = [str(RECORDING), str(ALERTS)]
    case = {"rule_files": files, "evaluation_interval": interval, "tests": [test]}
    (folder / "case.yml").write_text(json.dumps(case))
    promtool("test", "rules", folder / "case.yml")


def test_storms_are_told_that_the_average_hides(tmp_path: Path):
    """One bad second in twenty is told of within two minutes; its average is 3 %."""
    seconds = range(MINUTES * 60)
    storms = [0.6 if second % 20 == 10 else 0.0 for second in seconds]
    once = [0.6 if second == 185 else 0.0 for second in seconds]
    average = "max by (domain) (rate(libvirt_domain_vcpu_delay_seconds_total[5m])) > 0.1"
    run_rules(
        tmp_path,
        [
            *guest("calm", "a", [0.01] * len(seconds)),
            *guest("storms", "a", storms),
            *guest("once", "a", once),
        ],
        firing("GuestStealPeak", 1, "storms"),
        firing("GuestStealPeak", 3.25, "once", "storms"),
        firing("GuestStealPeak", 5, "storms"),
        firing("GuestStealStorms", 2.5, "storms"),
        firing("GuestStealStorms", 9, "storms"),
        firing("HostStealsFromGuests", 9),
        {"expr": average, "eval_time": "9m", "exp_samples": []},
    )


def test_a_host_without_a_cpu_to_spare_is_told_of(tmp_path: Path):
    """A host whose guests wait in one second of ten is told of, its neighbour is not."""
    seconds = range(MINUTES * 60)
    full = [0.4 if second % 10 == 0 else 0.0 for second in seconds]
    run_rules(
        tmp_path,
        [*guest("one", "full", full), *guest("two", "empty", [0.0] * len(seconds))],
        firing("HostStealsFromGuests", 8, "full"),
    )


@pytest.mark.parametrize("rules", [ALERTS, RECORDING], ids=lambda each: each.stem)
def test_rules_speak_of_what_there_is(rules: Path):
    """Every series of ours that a rule names is in the catalog."""
    families = {line.field.family for line in load().fields if line.field}
    expressions = re.sub(r"(runbook|summary|finding|dashboard): .*", "", rules.read_text())
    named = set(re.findall(r"\b(?:libvirt|virtstatd)_\w+", expressions))
    assert named
    assert {re.sub("_(total|bucket|count|sum)$", "", name) for name in named} <= families


def test_promtool_takes_the_rules():
    """Debian's own promtool has no complaint about them."""
    assert "SUCCESS" in promtool("check", "rules", ALERTS, RECORDING)
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", FOLDER / "scrape.yml")


D = "libvirt_domain"
BLOCK = f"{D}_block_stats"
NIC = f"{D}_interface_stats"
BALLOON_UPDATE = f"{D}_memory_stats_last_update_timestamp_seconds"
STORAGE = 'storage_type="nfs",storage="filer:/vms"'
BAD_SECONDS = [
    (f"{D}_steal_ratio_count", "", 2.0, 2.0),
    (f"{D}_steal_ratio_bucket", 'le="0.2"', 1.9, 1.995),
]
HURT: dict[str, list[tuple[str, str, float, float]]] = {
    "GuestStuck": [("virtstatd_domain_responsive", "", 0, 1)],
    "GuestSteal": [
        (f"{D}_vcpu_delay_seconds_total", 'vcpu="0"', 0.7, 0.05),
        (f"{D}_info_virtual_cpus", "", 2, 2),
    ],
    "GuestStealPeak": [(f"{D}_steal_peak_ratio", "", 0.6, 0.4)],
    "GuestCpuLimited": [
        (f"{D}_throttled_periods_total", "", 8, 2),
        (f"{D}_throttle_periods_total", "", 10, 10),
    ],
    "PartitionCpuLimited": [
        ("libvirt_partition_throttled_periods_total", 'partition="/p"', 8, 2),
        ("libvirt_partition_throttle_periods_total", 'partition="/p"', 10, 10),
    ],
    "GuestStealStorms": BAD_SECONDS,
    "HostStealsFromGuests": BAD_SECONDS,
    "StorageLatency": [
        ("libvirt_storage_read_time_seconds_total", STORAGE, 60, 1),
        ("libvirt_storage_write_time_seconds_total", STORAGE, 0, 0),
        ("libvirt_storage_read_requests_total", STORAGE, 100, 100),
        ("libvirt_storage_write_requests_total", STORAGE, 1, 1),
    ],
    "DiskLatency": [
        (f"{BLOCK}_storage_info", f'target_device="vda",{STORAGE}', 1, 1),
        (f"{BLOCK}_read_time_seconds_total", 'target_device="vda"', 60, 1),
        (f"{BLOCK}_write_time_seconds_total", 'target_device="vda"', 0, 0),
        (f"{BLOCK}_read_requests_total", 'target_device="vda"', 100, 100),
        (f"{BLOCK}_write_requests_total", 'target_device="vda"', 1, 1),
    ],
    "DiskAtLimit": [
        (f"{BLOCK}_limit_used_ratio", 'target_device="vda",limit="total_bytes"', 0.2, 0.9),
        (f"{BLOCK}_limit_used_ratio", 'target_device="vda",limit="read_requests"', 0.99, 0.5),
    ],
    "DiskFull": [
        (f"{BLOCK}_allocation_bytes", 'target_device="vda"', 95, 100),
        (f"{BLOCK}_physical_bytes", 'target_device="vda"', 100, 100),
        (f"{BLOCK}_capacity_bytes", 'target_device="vda"', 200, 100),
        (f"{BLOCK}_info", 'target_device="vda",disk_type="block"', 1, 1),
        (f"{BLOCK}_allocation_bytes", 'target_device="vdb"', 100, 100),
        (f"{BLOCK}_physical_bytes", 'target_device="vdb"', 100, 100),
        (f"{BLOCK}_capacity_bytes", 'target_device="vdb"', 200, 200),
        (f"{BLOCK}_info", 'target_device="vdb",disk_type="file"', 1, 1),
    ],
    "GuestMemoryLow": [
        (f"{D}_memory_stats_usable_bytes", "", 1, 30),
        (f"{D}_memory_stats_available_bytes", "", 100, 100),
        (BALLOON_UPDATE, "", 400, 400),
    ],
    "GuestMemoryStale": [(BALLOON_UPDATE, "", -100, 400)],
    "GuestFilesystemFull": [
        (f"{D}_guest_filesystem_used_bytes", 'mountpoint="/",fstype="ext4"', 95, 80),
        (f"{D}_guest_filesystem_size_bytes", 'mountpoint="/",fstype="ext4"', 100, 100),
        (f"{D}_guest_filesystem_used_bytes", 'mountpoint="/cd",fstype="ISO9660"', 9, 9),
        (f"{D}_guest_filesystem_size_bytes", 'mountpoint="/cd",fstype="ISO9660"', 9, 9),
    ],
    "HostGuestsReportNoMemory": [(f"{D}_memory_stats_period_seconds", "", 0, 10)],
    "MigrationStalled": [(f"{D}_job_info_stalled_seconds", "", 90, 0)],
    "NicDrops": [
        (f"{NIC}_receive_drops_total", 'target_device="vnet1"', 9, 2),
        (f"{NIC}_transmit_drops_total", 'target_device="vnet1"', 9, 2),
    ],
    "LibvirtDown": [("libvirt_up", "", 0, 1)],
    "HostMemoryLow": [
        ("libvirt_node_memory_available_bytes", "", 1, 30),
        ("libvirt_node_memory_total_bytes", "", 100, 100),
    ],
    "StoragePoolFull": [
        ("libvirt_storage_pool_available_bytes", 'storage_pool="p"', 2, 50),
        ("libvirt_storage_pool_capacity_bytes", 'storage_pool="p"', 100, 100),
    ],
    "StoragePoolHung": [("libvirt_storage_pool_timed_out", 'storage_pool="p"', 1, 0)],
    "HostIoPressure": [("libvirt_node_pressure_some_seconds_total", 'resource="io"', 0.5, 0.1)],
    "HostMemoryPressure": [
        ("libvirt_node_pressure_some_seconds_total", 'resource="memory"', 0.5, 0.01)
    ],
    "SinkFailing": [
        ("virtstatd_sink_attempts_total", 'sink="s",outcome="timeout"', 1, 1),
        ("virtstatd_sink_attempts_total", 'sink="s",outcome="ok"', 0, 1),
    ],
    "SinkLosing": [
        ("virtstatd_sink_dropped_samples_total", 'sink="s",reason="full"', 5, 0),
        ("virtstatd_sink_lost_samples_total", 'sink="s",reason="rejected"', 0, 0),
    ],
    "PollLate": [
        ("virtstatd_age_seconds", 'tier="monitor"', 50, 20),
        ("virtstatd_interval_seconds", 'tier="monitor"', 15, 15),
    ],
    "BudgetStretched": [
        ("virtstatd_interval_seconds", 'tier="monitor"', 60, 15),
        ("virtstatd_configured_interval_seconds", 'tier="monitor"', 15, 15),
    ],
    "AgentDown": [("up", 'job="virtstatd"', 0, 1)],
}
"""
Of each alert: metrics, their labels, and the value on a host that hurts and on one that does not.

Those of counters are by how much they grow a second.
"""

CRITICAL = {
    *("GuestSteal", "GuestCpuLimited", "PartitionCpuLimited", "DiskLatency", "StorageLatency"),
    *("GuestMemoryLow", "HostMemoryLow", "HostMemoryPressure", "StoragePoolFull"),
}
"""Those whose host hurts so much that the critical one of two alerts fires too."""

FIRING_MINUTES = 30
COUNTERS = ("_total", "_count", "_bucket")
ENTRIES = alerts_of(FOLDER / "alerts.toml")


def series_of(metric: str, labels: str, host: str, value: float) -> dict[str, str]:
    """Return a series of half an hour; the balloon's time is relative to its end."""
    scrapes_left = FIRING_MINUTES * 60 // SCRAPE_SECONDS
    of_host = f'instance="{host}",rack="r1",domain="{host}"'
    every = ",".join([of_host, *([labels] if labels else [])])
    if metric == BALLOON_UPDATE:
        value += FIRING_MINUTES * 60 - 800
    counts = metric.endswith(COUNTERS)
    step = value * SCRAPE_SECONDS if counts else 0
    start = 0 if counts else value
    return {"series": f"{metric}{{{every}}}", "values": f"{start:g}+{step:g}x{scrapes_left}"}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_each_alert_fires_on_the_host_that_hurts(entry: Alert, tmp_path: Path):
    """It fires for the host that hurts, with its rack and the severity, and for no other host."""
    several = [
        series_of(metric, labels, host, value)
        for metric, labels, hurting, healthy in HURT[entry.name]
        for host, value in (("hurt", hurting), ("well", healthy))
    ]
    finding = f', finding="{entry.finding}"' if entry.finding else ""
    labels = f'{{instance="hurt", rack="r1"{finding}}}'
    expected: dict[str, object] = {
        "expr": "count by (instance, rack, finding)"
        f' (ALERTS{{alertname="{entry.name}", alertstate="firing"}})',
        "eval_time": f"{FIRING_MINUTES}m",
        "exp_samples": [{"labels": labels, "value": 1 + (entry.name in CRITICAL)}],
    }
    run_rules(tmp_path, several, expected)


def test_every_alert_is_tested():
    """An alert that is added without a case fails here."""
    assert {each.name for each in ENTRIES} == set(HURT)
