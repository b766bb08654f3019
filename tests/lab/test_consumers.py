"""OpenStack's own code queries a Prometheus that scraped the agent, about a real guest."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.support.hypervisor import Lab
from support.agent import running
from support.ports import free_port
from support.servers import asked, needs, serving


pytestmark = [needs("prometheus", "prometheus-node-exporter"), pytest.mark.soak]

CONSUMERS = Path(__file__).parents[2] / "config" / "consumers"
PACKAGES = ("python-watcher==17.0.0", "cloudkitty==25.0.0")
HOST = "compute-1.example"
PERIOD = 20
PROJECT = "4d9aa1ae0e6d4ce9a6a0c6a1d0b4c1a7"
NOVA = f"""
<metadata>
  <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
    <nova:name>web</nova:name>
    <nova:flavor name="m1.tiny"><nova:memory>128</nova:memory></nova:flavor>
    <nova:owner>
      <nova:user uuid="u1">alice</nova:user>
      <nova:project uuid="{PROJECT}">demo</nova:project>
    </nova:owner>
  </nova:instance>
</metadata>
"""
SCRAPE = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: virtstatd
    static_configs: [{{targets: ['{agent}'], labels: {{fqdn: {host}}}}}]
  - job_name: node
    static_configs: [{{targets: ['127.0.0.1:{node}'], labels: {{fqdn: {host}}}}}]
"""
ASK_WATCHER = """
import json, sys
from types import SimpleNamespace
import watcher.conf
watcher.conf.CONF(["--config-file", sys.argv[1]], project="watcher")
from watcher.decision_engine.datasources.prometheus import PrometheusHelper
helper = PrometheusHelper()
guest = SimpleNamespace(uuid=sys.argv[2], vcpus=1, memory=128, disk=1)
host = SimpleNamespace(hostname=sys.argv[3])
period = int(sys.argv[4])
print(json.dumps({
    "available": helper.check_availability(),
    "guest_cpu": helper.get_instance_cpu_usage(guest, period=period),
    "guest_ram": helper.get_instance_ram_usage(guest, period=period),
    "host_cpu": helper.get_host_cpu_usage(host, period=period),
    "host_ram": helper.get_host_ram_usage(host, period=period),
}))
"""
ASK_CLOUDKITTY = """
import datetime, json, sys
import yaml
from oslo_config import cfg
from cloudkitty.collector import prometheus
from cloudkitty.fetcher import prometheus as fetching
cfg.CONF(["--config-file", sys.argv[1]], project="cloudkitty")
conf = yaml.safe_load(open(sys.argv[2]))
end = datetime.datetime.now(datetime.timezone.utc)
start = end - datetime.timedelta(seconds=int(sys.argv[3]))
collector = prometheus.PrometheusCollector(period=3600, conf=conf)
rated = {}
(scope,) = fetching.PrometheusFetcher().get_tenants()
for name in collector.conf:
    points = collector.fetch_all(name, start, end, scope)
    rated[name.split("@#")[1]] = [[str(p.qty), dict(p.groupby), dict(p.metadata)] for p in points]
print(json.dumps({"scope": scope, "rated": rated}))
"""


async def told(python: Path, script: str, *arguments: object) -> Any:
    """Run a script of a consumer's and return what it prints."""
    command = [str(python), "-c", script, *map(str, arguments)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def configured(file: str, folder: Path, port: int) -> Path:
    """Return an example as an operator would have it: with the place of their Prometheus."""
    text = (CONSUMERS / file).read_text()
    text = text.replace("prometheus.example:9090", f"127.0.0.1:{port}")
    text = text.replace("prometheus.example", "127.0.0.1").replace("port = 9090", f"port = {port}")
    copy = folder / file
    copy.write_text(text)
    return copy


@pytest.fixture(scope="module")
def openstack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the consumers into a place of their own and return its Python."""
    folder = tmp_path_factory.mktemp("openstack")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin/python"
    install = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES]
    subprocess.run(install, check=True, timeout=1500)
    return python


@pytest.mark.timeout(1800)
async def test_watcher_and_cloudkitty_ask_about_a_real_guest(
    private_lab: Lab, openstack: Path, tmp_path: Path
):
    """With the shipped examples both get what the guest uses, by their own queries."""
    guest = private_lab.live_guest("instance-0000002a", extra=NOVA)
    port, node = free_port(), free_port()
    page = '\nnames = "ceilometer"\n'
    with running(tmp_path, private_lab.uri_readonly, more=page) as agent:
        config = tmp_path / "prometheus.yml"
        target = agent.address.removeprefix("http://")
        config.write_text(SCRAPE.format(agent=target, node=node, host=HOST))
        command = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        exporter = ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{node}"]
        url = f"http://127.0.0.1:{port}"
        async with (
            serving(exporter, ready=f"http://127.0.0.1:{node}/"),
            serving(command, ready=f"{url}/-/ready"),
        ):
            seen = f"min(count_over_time(ceilometer_memory_usage[{PERIOD}s])) >= {PERIOD - 2}"
            async with asyncio.timeout(300):
                while not (await asked(f"{url}/api/v1/query", query=seen))["data"]["result"]:
                    await asyncio.sleep(1)
            conf = configured("watcher.conf", tmp_path, port)
            use = await told(openstack, ASK_WATCHER, conf, guest.uuid, HOST, PERIOD)
            conf = configured("cloudkitty.conf", tmp_path, port)
            metrics = CONSUMERS / "cloudkitty_metrics.yml"
            rated = await told(openstack, ASK_CLOUDKITTY, conf, metrics, PERIOD)
    assert use["available"] == "available"
    assert 0 < use["guest_cpu"] <= 100
    assert 0 < use["guest_ram"] < 128
    assert 0 < use["host_cpu"] <= 100
    assert use["host_ram"] > 0
    assert rated["scope"] == PROJECT
    quantities = {name: float(points[0][0]) for name, points in rated["rated"].items()}
    assert quantities.keys() == {"vcpus", "memory", "cpu", "traffic"}
    assert (quantities["vcpus"], quantities["memory"]) == (1, 128)
    assert 0 < quantities["cpu"] <= 3600
    assert quantities["traffic"] > 0
    (_, by, more) = rated["rated"]["vcpus"][0]
    assert by["resource"] == guest.uuid
    assert re.fullmatch(f"web:{guest.name}", more["resource_name"])
