"""Dashboards, recording rules and alerts, with a real Prometheus that scrapes a real guest."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from lab.support.inside import FILL
from lab.support.migration import migration
from support.agent import running
from support.ports import free_port
from support.servers import asked, serving
from virtstatd.commands.alerts import alerts_of
from virtstatd.commands.dashboards import read


CONFIG = Path(__file__).parents[2] / "config"
RULES = ("prometheus/alerts", "prometheus/recording", "consumers/cortex_rules")
SETTINGS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: {rules}
scrape_configs: [{{job_name: virtstatd, static_configs: [{{targets: ['{target}']}}]}}]
"""
SECONDS = 240.0
AWAY = """
[[sink]]
name = "away"
type = "influx"
url = "http://127.0.0.1:9"
database = "none"
"""
"""A sink whose destination does not exist, for the panels about sinks that fail."""


PARTITION = {
    "cpu.max": "190000 100000",
    "cpu.cfs_quota_us": "190000",
    "memory.max": str(8 << 30),
    "memory.limit_in_bytes": str(8 << 30),
}
"""Limits of the partition of all guests, for the panels about limits; none comes near to them."""


NOVA = """
<metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
  <nova:name>web</nova:name><nova:owner><nova:project uuid="p1">demo</nova:project></nova:owner>
</nova:instance></metadata>
"""
MORE = """
[guest_agent]
enabled = true
interval_seconds = 1
filesystems_interval_seconds = 2
[jobs]
interval_seconds = 1
discovery_seconds = 5
"""
"""What is off or rare by default, and has panels and alerts."""

ELSEWHERE = {"disk_full": "no disk here is on a block device: tests/unit/insight/test_storages.py"}
"""Findings whose numbers these guests do not have, and which test has them."""


def queries() -> list[str]:
    """Return all expressions of dashboards, alerts and recording rules, variables filled in."""
    several = [
        query
        for file in sorted((CONFIG / "grafana").glob("*.toml"))
        for query in read(file).queries
    ]
    several += [
        each.query
        for each in alerts_of(CONFIG / "prometheus" / "alerts.toml")
        if each.finding not in ELSEWHERE
    ]
    for name in RULES:
        several += re.findall(r"record: (\S+)", (CONFIG / f"{name}.yml").read_text())
    several += re.findall(r"query: \|\n +(.*)", (CONFIG / "consumers" / "cortex.yaml").read_text())
    for page in (CONFIG / "prometheus").glob("*.md"):
        for block in re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL):
            several += re.sub(r"(?m)^#.*\n", "", block).split("\n\n")
    return [
        each.replace("$__rate_interval", "1m")
        .replace("$instance", ".+")
        .replace('instance="', 'instance=~"')
        .replace('domain="$domain"', 'domain="live"')
        .replace('alertstate="firing"', 'alertstate=~"pending|firing"')
        for each in several
    ]


@contextmanager
def moving(here: Lab, there: Lab, name: str) -> Iterator[None]:
    """Have a guest migrate, too slowly to arrive."""
    here.virsh("migrate-setspeed", here.uuid(name), "1")
    process = subprocess.Popen(migration(here, there, here.uuid(name)), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(600)
async def test_every_panel_and_every_alert_has_numbers(tmp_path: Path):
    """Each expression has an answer, and Prometheus evaluates each rule without an error."""
    with (
        Lab() as lab,
        Lab() as there,
        tempfile.TemporaryDirectory(prefix="prometheus") as folder,
        ExitStack() as stack,
    ):
        await asyncio.to_thread(lab.live_guest, "live", memory_mib=192, extra=NOVA)
        lab.inside_guest("live", FILL)
        lab.inside_guest("live", "while :; do :; done")  # it wants a CPU, and has half of one
        lab.virsh("schedinfo", "live", "--live", "vcpu_quota=50000")
        lab.create(lab.definition("quiet"))
        lab.virsh("dommemstat", lab.uuid("quiet"), "--live", "--period", "0")
        limits = ("--total-iops-sec", "1000", "--total-bytes-sec", "100000000")
        lab.virsh("blkdeviotune", lab.uuid("live"), "vda", *limits, "--live")
        lab.virsh("pool-create-as", "images", "dir", "--target", str(lab.images))
        for group in lab.trace.groups:
            for name, text in PARTITION.items():
                if (group / "machine" / name).exists():
                    (group / "machine" / name).write_text(text)
        with running(tmp_path, lab.uri_readonly, local=True, budget=5.0, more=AWAY + MORE) as agent:
            file = Path(folder, "prometheus.yml")
            rules = [str(CONFIG / f"{name}.yml") for name in RULES]
            target = agent.address.removeprefix("http://")
            settings = SETTINGS.format(rules=json.dumps(rules), target=target)
            await asyncio.to_thread(file.write_text, settings)
            url = f"http://127.0.0.1:{free_port()}"
            command = (
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={url.removeprefix('http://')}",
            )
            async with serving(command, ready=f"{url}/-/ready"):
                stack.enter_context(moving(lab, there, "live"))
                empty = set(queries())
                ends = asyncio.get_running_loop().time() + SECONDS
                while empty and asyncio.get_running_loop().time() < ends:
                    for query in [*empty]:
                        found = await asked(f"{url}/api/v1/query", query=query)
                        assert found["status"] == "success", (query, found)
                        if found["data"]["result"]:
                            empty.remove(query)
                    await asyncio.sleep(1)
                health = await asked(f"{url}/api/v1/rules")
    assert not empty, "\n".join(sorted(empty))
    wrong = [
        (rule["name"], rule.get("lastError"))
        for group in health["data"]["groups"]
        for rule in group["rules"]
        if rule["health"] != "ok"
    ]
    assert not wrong
