"""
What virsh shows, written as what the agent's page must show.

The table below is written by hand and knows nothing of the catalog: it is the second opinion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

from support.agent import Series, parsed
from virtstatd.catalog import shipped
from virtstatd.model import Kind


Stats = Mapping[str, str]
"""One guest as `virsh domstats --raw` prints it."""

KIB, MIB, NS = Decimal(1024), Decimal(1024 * 1024), Decimal("1e-9")
ONE = Decimal(1)
RSS_BYTES = 16 << 20
DOUBLE_UNIT = 1e-6  # virsh prints so many decimals

DISK = r"block\.(?P<target_device>\d+)"
NIC = r"net\.(?P<target_device>\d+)"
CACHE = r"cpu\.cache\.monitor\.(?P<monitor>\d+)\.bank"
ENERGY = r"cpu\.energy\.monitor\.(?P<monitor>\d+)\.pkg"
BANDWIDTH = r"memory\.bandwidth\.monitor\.(?P<monitor>\d+)\.node"
TIMED = rf"{DISK}\.timed_group\.(?P<interval>\d+)"
VCPU = r"vcpu\.(?P<vcpu>\d+)"
IOTHREAD = r"iothread\.(?P<iothread>\d+)"

# a key of virsh's, the name on the page, the factor from one to the other
RULES: list[tuple[str, str, Decimal]] = [
    (r"state\.state", "info_state", ONE),
    (r"state\.reason", "info_state_reason", ONE),
    (r"cpu\.(time|user|system)", "info_cpu_{0}_seconds_total", NS),
    (r"cpu\.haltpoll\.(success|fail)\.time", "cpu_haltpoll_{0}_seconds_total", NS),
    (r"cpu\.(cache|energy)\.monitor\.count", "cpu_{0}_monitors", ONE),
    (rf"{CACHE}\.count", "cpu_cache_monitor_banks", ONE),
    (rf"{CACHE}\.(?P<bank>\d+)\.bytes", "cpu_cache_occupancy_bytes", ONE),
    (rf"{ENERGY}\.count", "cpu_energy_monitor_packages", ONE),
    (rf"{ENERGY}\.(?P<package>\d+)\.(?!id$)(?P<event>\w+)", "cpu_energy_event_total", ONE),
    (r"balloon\.current", "memory_stats_current_balloon_bytes", KIB),
    (r"balloon\.current", "info_memory_usage_bytes", KIB),
    (r"balloon\.maximum", "memory_stats_maximum_bytes", KIB),
    (r"balloon\.maximum", "info_maximum_memory_bytes", KIB),
    (r"balloon\.(swap_in|swap_out)", "memory_stats_{0}_bytes_total", KIB),
    (r"balloon\.(m\w+_fault|hugetlb_pg\w+)", "memory_stats_{0}_total", ONE),
    (r"balloon\.(unused|available|usable|disk_caches|rss)", "memory_stats_{0}_bytes", KIB),
    (r"balloon\.last-update", "memory_stats_last_update_timestamp_seconds", ONE),
    (r"vcpu\.current", "vcpu_current", ONE),
    (r"vcpu\.current", "info_virtual_cpus", ONE),
    (r"vcpu\.maximum", "vcpu_maximum", ONE),
    (rf"{VCPU}\.state", "vcpu_state", ONE),
    (rf"{VCPU}\.(time|wait|delay)", "vcpu_{1}_seconds_total", NS),
    (rf"{VCPU}\.halted", "vcpu_halted", ONE),
    (rf"{VCPU}\.(?P<stat>\w+)\.sum", "vcpu_kvm_total", ONE),
    (rf"{VCPU}\.(?P<stat>\w+)\.cur", "vcpu_kvm_current", ONE),
    (rf"{VCPU}\.(?P<stat>\w+)\.max", "vcpu_kvm_maximum", ONE),
    (r"net\.count", "interface_stats_devices", ONE),
    (rf"{NIC}\.rx\.bytes", "interface_stats_receive_bytes_total", ONE),
    (rf"{NIC}\.rx\.pkts", "interface_stats_receive_packets_total", ONE),
    (rf"{NIC}\.rx\.errs", "interface_stats_receive_errors_total", ONE),
    (rf"{NIC}\.rx\.drop", "interface_stats_receive_drops_total", ONE),
    (rf"{NIC}\.tx\.bytes", "interface_stats_transmit_bytes_total", ONE),
    (rf"{NIC}\.tx\.pkts", "interface_stats_transmit_packets_total", ONE),
    (rf"{NIC}\.tx\.errs", "interface_stats_transmit_errors_total", ONE),
    (rf"{NIC}\.tx\.drop", "interface_stats_transmit_drops_total", ONE),
    (r"block\.count", "block_stats_devices", ONE),
    (rf"{DISK}\.backingIndex", "block_stats_backing_index", ONE),
    (rf"{DISK}\.rd\.bytes", "block_stats_read_bytes_total", ONE),
    (rf"{DISK}\.wr\.bytes", "block_stats_write_bytes_total", ONE),
    (rf"{DISK}\.rd\.reqs", "block_stats_read_requests_total", ONE),
    (rf"{DISK}\.wr\.reqs", "block_stats_write_requests_total", ONE),
    (rf"{DISK}\.fl\.reqs", "block_stats_flush_requests_total", ONE),
    (rf"{DISK}\.rd\.times", "block_stats_read_time_seconds_total", NS),
    (rf"{DISK}\.wr\.times", "block_stats_write_time_seconds_total", NS),
    (rf"{DISK}\.fl\.times", "block_stats_flush_time_seconds_total", NS),
    (rf"{DISK}\.(allocation|capacity|physical|threshold)", "block_stats_{1}_bytes", ONE),
    (rf"{DISK}\.limits\.(\w+_alignment|transfer_optimal)", "block_stats_limits_{1}_bytes", ONE),
    (rf"{DISK}\.limits\.(memory_alignment_optimal)", "block_stats_limits_{1}_bytes", ONE),
    (
        rf"{DISK}\.limits\.memory_alignment_minimal",
        "block_stats_limits_memory_alignment_minimum_bytes",
        ONE,
    ),
    (
        rf"{DISK}\.limits\.(discard|write_zeroes|transfer)_max",
        "block_stats_limits_{1}_maximum_bytes",
        ONE,
    ),
    (
        rf"{DISK}\.limits\.transfer_hw_max",
        "block_stats_limits_transfer_hardware_maximum_bytes",
        ONE,
    ),
    (rf"{DISK}\.limits\.iov_max", "block_stats_limits_iov_maximum", ONE),
    (rf"{DISK}\.limits\.iov_hw_max", "block_stats_limits_iov_hardware_maximum", ONE),
    (rf"{DISK}\.timed_group\.count", "block_stats_timed_groups", ONE),
    *(
        (
            rf"{TIMED}\.{way}_latency_{short}",
            f"block_stats_timed_{word}_latency_{long}_seconds",
            NS,
        )
        for way, word in (
            ("rd", "read"),
            ("wr", "write"),
            ("zone_append", "zone_append"),
            ("flush", "flush"),
        )
        for short, long in (("min", "minimum"), ("max", "maximum"), ("avg", "average"))
    ),
    (rf"{TIMED}\.rd_queue_depth_avg", "block_stats_timed_read_queue_depth_average", ONE),
    (rf"{TIMED}\.wr_queue_depth_avg", "block_stats_timed_write_queue_depth_average", ONE),
    (
        rf"{TIMED}\.zone_append_queue_depth_avg",
        "block_stats_timed_zone_append_queue_depth_average",
        ONE,
    ),
    (r"perf\.(cmt|mbmt|mbml)", "perf_{0}_bytes", ONE),
    (r"perf\.(cpu_clock|task_clock)", "perf_{0}_seconds_total", NS),
    (r"perf\.page_faults_min", "perf_page_faults_minor_total", ONE),
    (r"perf\.page_faults_maj", "perf_page_faults_major_total", ONE),
    (r"perf\.(instructions|\w+_cycles|stalled_cycles_\w+)", "perf_{0}_total", ONE),
    (r"perf\.(cache_\w+|branch_\w+|context_switches|cpu_migrations)", "perf_{0}_total", ONE),
    (r"perf\.(page_faults|alignment_faults|emulation_faults)", "perf_{0}_total", ONE),
    (r"iothread\.count", "iothreads", ONE),
    (rf"{IOTHREAD}\.poll-max-ns", "iothread_poll_maximum_seconds", NS),
    (rf"{IOTHREAD}\.poll-(grow|shrink|weight)", "iothread_poll_{1}", ONE),
    (r"memory\.bandwidth\.monitor\.count", "memory_bandwidth_monitors", ONE),
    (rf"{BANDWIDTH}\.count", "memory_bandwidth_monitor_nodes", ONE),
    (rf"{BANDWIDTH}\.(?P<node>\d+)\.bytes\.local", "memory_bandwidth_local_bytes_total", ONE),
    (rf"{BANDWIDTH}\.(?P<node>\d+)\.bytes\.total", "memory_bandwidth_bytes_total", ONE),
    (r"dirtyrate\.calc_status", "dirtyrate_calc_status", ONE),
    (r"dirtyrate\.(calc_start_time|calc_period)", "dirtyrate_{0}_seconds", ONE),
    (r"dirtyrate\.megabytes_per_second", "dirtyrate_bytes_per_second", MIB),
    (rf"dirtyrate\.{VCPU}\.megabytes_per_second", "dirtyrate_vcpu_bytes_per_second", MIB),
    (r"vm\.(?P<stat>\w+)\.sum", "vm_kvm_total", ONE),
    (r"vm\.(?P<stat>\w+)\.cur", "vm_kvm_current", ONE),
    (r"vm\.(?P<stat>\w+)\.max", "vm_kvm_maximum", ONE),
]
# these are labels on the page: below the number of a device virsh prints what the label holds
LABELS = {
    "target_device": "name",
    "monitor": "name",
    "bank": "id",
    "package": "id",
    "node": "id",
    "interval": "interval",
}
TEXTS = re.compile(
    rf"(net|block)\.\d+\.(name|path)|dirtyrate\.calc_mode|{TIMED}\.interval"
    r"|\w+\.\w+\.monitor\.\d+\.(name|vcpus|(bank|pkg|node)\.\d+\.id)"
)
BINS = re.compile(rf"({DISK}\.latency_histogram\.(?P<operation>\w+)\.bin)\.(count|\d+\.\w+)")
ELSEWHERE = {
    f"{line.field.family}{'_total' if line.field.kind is Kind.COUNTER else ''}"
    for line in shipped().fields
    if line.field and not shipped().groups[line.group].bit
}
"""What is not of domstats: descriptions, limits, events, jobs and other calls."""

# these carry the names of their numbers in labels that virsh does not print
NAMED = {
    "libvirt_domain_info_state",
    "libvirt_domain_info_state_reason",
    "libvirt_domain_vcpu_state",
    "libvirt_domain_dirtyrate_calc_status",
}
NAMES = {"state", "state_desc", "reason", "status"}


def printed(text: str) -> dict[str, dict[str, str]]:
    """Read what `virsh domstats --raw` prints, guest by guest."""
    guests: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if found := re.fullmatch("Domain: '(.*)'", line):
            stats = guests[found[1]] = {}
        elif "=" in line:
            key, _, value = line.strip().partition("=")
            stats[key] = value
    return guests


def expected(stats: Stats, domain: str) -> dict[Series, float]:
    """Turn virsh's lines into the series that they must be."""
    series: dict[Series, float] = {}
    for key, text in stats.items():
        if TEXTS.fullmatch(key):
            continue
        if bins := BINS.fullmatch(key):
            if bins[4] == "count":
                series |= dict(_histogram(stats, domain, bins))
            continue
        rules = [(m, name, f) for p, name, f in RULES if (m := re.fullmatch(p, key))]
        assert rules, f"virsh shows {key}, and the table of this test does not know it"
        value = Decimal({"yes": "1", "no": "0"}.get(text, text))
        for match, name, factor in rules:
            full = f"libvirt_domain_{name.format(*match.groups())}"
            exact = value * factor
            # a double has no room for the digits of a large counter, and the page shows them all
            number = int(exact) if exact == int(exact) else float(exact)
            series[full, _labels(stats, domain, match)] = number
    return series


def _labels(stats: Stats, domain: str, match: re.Match[str]) -> tuple[tuple[str, str], ...]:
    labels = {"domain": domain} | match.groupdict()
    for label, below in LABELS.items():
        if label in labels:
            labels[label] = stats[f"{match.string[: match.end(label)]}.{below}"]
    return tuple(sorted(labels.items()))


def _histogram(stats: Stats, domain: str, match: re.Match[str]) -> Iterator[tuple[Series, float]]:
    """Add the bins up: libvirt's count each value once, those of the page all below a bound."""
    labels = _labels(stats, domain, match)
    name = "libvirt_domain_block_stats_latency_seconds"
    total = 0
    count = int(stats[match.string])
    for n in range(count):
        total += int(stats[f"{match[1]}.{n}.value"])
        end = stats.get(f"{match[1]}.{n + 1}.start")
        bound = "+Inf" if end is None else f"{float(Decimal(end) * NS):g}"
        yield (f"{name}_bucket", tuple(sorted((*labels, ("le", bound))))), total
    yield (f"{name}_count", labels), total


def shown(page: str) -> dict[Series, float]:
    """Return what `virsh domstats` has as well, without the names of enumerations."""
    series = {}
    for (name, labels), value in parsed(page).items():
        if name.startswith("libvirt_domain_") and not name.endswith("_info"):
            if name in ELSEWHERE:
                continue
            hidden = NAMES if name in NAMED else ()
            series[name, tuple(pair for pair in labels if pair[0] not in hidden)] = value
    return series


def compare(before: Mapping[str, Stats], page: str, after: Mapping[str, Stats]) -> tuple[int, int]:
    """
    Hold a page against virsh's readings before and after it.

    Returns how many numbers agreed, and how many of them had moved between the readings: what
    moved must lie between, everything else must be equal.
    """
    left = shown(page)
    agreed = moved = 0
    for domain in before:
        first = expected(before[domain], domain)
        for series, last in expected(after[domain], domain).items():
            value = left.pop(series, None)
            assert value is not None, f"virsh shows what the page does not: {series}"
            low, high = sorted((first[series], last))
            # 0 and not 0.0, which would make doubles of the integers
            margin = DOUBLE_UNIT if series[0].endswith("_queue_depth_average") else 0
            if series[0].endswith("_rss_bytes") and low < high:  # that of a guest at work wanders
                margin = RSS_BYTES
            assert low - margin <= value <= high + margin, f"{series}: {low} <= {value} <= {high}"
            agreed += 1
            moved += low != high
    assert not left, f"the page shows what virsh does not: {list(left)[:5]}"
    return agreed, moved
