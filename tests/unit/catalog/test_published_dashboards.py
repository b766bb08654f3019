"""Dashboards that others have published: every metric that they ask for exists."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from virtstatd.catalog import shipped
from virtstatd.catalog.names import dialect
from virtstatd.formats.naming import metric_name


BOTH = {
    "info_state": [""],
    "openstack_info": [""],
    "info": ["_cpu_time_seconds_total"],
    "vcpu": ["_current", "_delay_seconds_total"],
    "memory_stats": ["_used_percent", "_swap_in_bytes", "_swap_out_bytes"],
    "block_stats_info": [""],
    "block_stats_read": ["_bytes_total", "_requests_total", "_time_seconds_total"],
    "block_stats_write": ["_bytes_total", "_requests_total", "_time_seconds_total"],
    "interface_stats_info": [""],
    "interface_stats_receive": ["_bytes_total", "_packets_total", "_errors_total", "_drops_total"],
    "interface_stats_transmit": ["_bytes_total", "_packets_total", "_errors_total"],
}
INOVEX = {"vcpu_time": ["_seconds_total"], "memory_stats_maximum": ["_bytes"]}
GENESTACK = {
    "timed_out": [""],
    "info_virtual_cpus": [""],
    "info_maximum_memory": ["_bytes"],
    "info_memory_usage": ["_bytes"],
    "memory_stats_available": ["_bytes"],
    "memory_stats_usable": ["_bytes"],
    "memory_stats_unused": ["_bytes"],
    "memory_stats_rss": ["_bytes"],
    "memory_stats_current_balloon": ["_bytes"],
    "memory_stats_disk_caches": ["_bytes"],
    "memory_stats_major_fault": ["_total"],
    "memory_stats_minor_fault": ["_total"],
    "memory_stats_hugetlb": ["_pgalloc_total", "_pgfail_total"],
    "interface_stats_transmit_drops": ["_total"],
    "block_stats_capacity": ["_bytes"],
    "block_stats_flush": ["_requests_total"],
    "job_info_time": ["_elapsed_seconds", "_remaining_seconds"],
    "job_info_data": ["_processed_bytes", "_total_bytes"],
    "job_info_memory": ["_processed_bytes", "_total_bytes"],
    "job_info_file": ["_processed_bytes", "_total_bytes"],
}
"""Names without `libvirt_domain_`, as the expressions and variables of the dashboards have them."""


def names(*parts: dict[str, list[str]]) -> Iterator[str]:
    """Yield the names in full."""
    for part in parts:
        for stem, ends in part.items():
            for end in ends:
                yield f"libvirt_domain_{stem}{end}"


@pytest.mark.parametrize(
    ("dashboard", "count"), [(INOVEX, 25), (GENESTACK, 48)], ids=["inovex", "genestack"]
)
def test_every_metric_exists_under_inovexs_names(dashboard: dict[str, list[str]], count: int):
    """No metric of the dashboard is missing; test_names.py holds its labels and its value."""
    asked = [*names(BOTH, dashboard)]
    of = dialect("inovex")
    own = {metric_name(line.field) for line in shipped().fields if line.field}
    assert len(set(asked)) == len(asked) == count
    assert set(asked) <= of.metrics.keys() | own
    assert not set(asked) & of.missing.keys()
