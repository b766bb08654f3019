"""Consumers of the agent's numbers find them: their queries, sent to a real Prometheus."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.prometheus import prometheus
from support.servers import asked, needs
from virtstatd.catalog import shipped
from virtstatd.model import Batch, Reading
from virtstatd.sinks.remote_write import RemoteWrite
from virtstatd.testing import make_domain
from virtstatd.testing.contract import opening


pytestmark = needs("prometheus")

CONSUMERS = Path(__file__).parents[2] / "config" / "consumers"
SECOND = 10**9
SCRAPE_SECONDS = 15
SPAN_SECONDS = 1200
PERIOD = 600
MIB = 1 << 20
GUEST = make_domain(1, "instance-0000002a")
NOVA = {
    "instance_name": "web",
    "instance_id": GUEST.uuid,
    "project_id": "p1",
    "project_name": "demo",
    "user_id": "u1",
    "user_name": "alice",
}

CORTEX = "max by (domain) (rate(kvm_domain_libvirt_vcpu_delay_nanoseconds[5m])) / 1e9 * 100"
"""As helm/bundles/cortex-nova/templates/datasources_kvm.yaml of cobaltcore-dev/cortex has it."""

WATCHER = {
    "clamp_max((avg by (resource)(rate(ceilometer_cpu{resource='UUID'}[300s]))/10e+8)"
    " *(100/2), 100)": 60.0,
    "avg_over_time(ceilometer_memory_usage{resource='UUID'}[300s])": 100.0,
}
"""As PrometheusBase of python-watcher 17.0.0 builds them, for a guest with two vCPUs."""


def numbers(second: int) -> dict[tuple[str, str, tuple[tuple[str, str], ...]], int]:
    """Return what a guest of two vCPUs has after so many seconds, in the catalog's own units."""
    ns = second * SECOND
    tap = (("target_device", "tap0"),)
    found = {
        ("state", "state", (("state", "running"), ("state_desc", "it runs"))): 1,
        ("balloon", "current", ()): 512 * MIB,
        ("balloon", "available", ()): 400 * MIB,
        ("balloon", "usable", ()): 300 * MIB,
        ("vcpu", "current", ()): 2,
        ("net", "{target_device}.tx.bytes", tap): second * MIB,
        ("domain", "openstack", tuple(NOVA.items())): 1,
    }
    shares = {"time": (0.5, 0.5), "wait": (0.1, 0.1), "delay": (0.25, 0.05)}
    for what, each in shares.items():
        for vcpu, share in enumerate(each):
            found["vcpu", f"{{vcpu}}.{what}", (("vcpu", str(vcpu)),)] = round(ns * share)
    return found


def batches(until: float) -> Iterator[Batch]:
    """Yield what the agent polls of the guest, up to a time."""
    shapes = {}
    for second in range(0, SPAN_SECONDS + 1, SCRAPE_SECONDS):
        values = numbers(second)
        readings = []
        for group in dict.fromkeys(group for group, _, _ in values):
            of = [key for key in values if key[0] == group]
            if group not in shapes:
                shapes[group] = shipped().shape(group, [(key, labels) for _, key, labels in of])
            readings.append(Reading(GUEST, shapes[group], tuple(values[key] for key in of)))
        taken_at = round((until - SPAN_SECONDS + second) * SECOND)
        yield Batch("bulk", taken_at, tuple(readings), frozenset(shapes))


def cloudkitty_query(name: str, metric: Mapping[str, Any]) -> str:
    """Return what PrometheusCollectorBase of cloudkitty 25.0.0 asks of a project."""
    more = metric["extra_args"]
    method = more["aggregation_method"]
    function = more.get("range_function", f"{method}_over_time")
    by = ", ".join([*metric["groupby"], *metric["metadata"]])
    vector = f'{function}({name}{{project="p1"}}[{PERIOD}s])'
    return f"{method}({vector}) by ({by}) {more.get('query_suffix', '')}"


@pytest.mark.timeout(120)
async def test_consumers_find_their_numbers(tmp_path: Path):
    """Cortex, Watcher and CloudKitty get the right answers to what they and our examples ask."""
    now = float(int(time.time()))
    async with prometheus(tmp_path) as url:
        sink = RemoteWrite(url=f"{url}/api/v1/write", names="ceilometer")
        async with sink.open(opening()) as send:
            for batch in batches(now):
                await send(batch)

        async def answer(query: str) -> dict[str, float]:
            found = await asked(f"{url}/api/v1/query", query=query, time=str(now))
            return {
                each["metric"].get("domain") or each["metric"].get("resource", ""): float(
                    each["value"][1]
                )
                for each in found["data"]["result"]
            }

        datasource = yaml.safe_load((CONSUMERS / "cortex.yaml").read_text())
        query = datasource["spec"]["prometheus"]["query"]
        assert await answer(query) == {GUEST.name: pytest.approx(25.0)}
        (rule,) = yaml.safe_load((CONSUMERS / "cortex_rules.yml").read_text())["groups"][0]["rules"]
        recorded = CORTEX.replace(f"{rule['record']}[5m]", f"({rule['expr']})[5m:15s]")
        assert recorded != CORTEX
        assert await answer(recorded) == {GUEST.name: pytest.approx(25.0)}

        for query, wanted in WATCHER.items():
            found = await answer(query.replace("UUID", GUEST.uuid))
            assert found == {GUEST.uuid: pytest.approx(wanted)}

        metrics = yaml.safe_load((CONSUMERS / "cloudkitty_metrics.yml").read_text())["metrics"]
        values = {
            metric["alt_name"]: await answer(cloudkitty_query(name, metric))
            for name, metric in metrics.items()
        }
        tap = f"{GUEST.name}-{GUEST.uuid}-tap0"
        assert values == {
            "vcpus": {GUEST.uuid: 2},
            "memory": {GUEST.uuid: 512},
            "cpu": {GUEST.uuid: pytest.approx(1.2 * 3600 * SECOND)},
            "traffic": {tap: pytest.approx(3600 * MIB)},
        }


def test_the_rules_are_rules():
    """Promtool is content with the rules for Cortex."""
    command = ["promtool", "check", "rules", str(CONSUMERS / "cortex_rules.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
