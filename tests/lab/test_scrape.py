"""The page of real guests, read by those who will read it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from lab.support.hypervisor import Lab
from support.agent import parsed, running
from support.ports import free_port
from support.servers import asked, serving


SCRAPE = """
global: {{scrape_interval: 1s}}
scrape_configs: [{{job_name: virtstatd, static_configs: [{{targets: ['{target}']}}]}}]
"""


def test_promtool_has_no_complaint(lab: Lab, tmp_path: Path):
    """The linter of Prometheus finds nothing in names, types and help of a whole page."""
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing; make test installs it"
    with running(tmp_path, lab.uri_readonly) as agent:
        agent.wait_for(lambda: agent.value("virtstatd_age_seconds", tier="extra") is not None)
        page = agent.page()
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_both_formats_hold_the_same_numbers(lab: Lab, tmp_path: Path):
    """OpenMetrics and the older text read back to the same series, hostile names included."""
    with running(tmp_path, lab.uri_readonly, pulse=60, monitor=60, extra=60) as agent:
        agent.wait_for(lambda: agent.value("virtstatd_age_seconds", tier="extra") is not None)
        old = parsed(agent.page())
        page = agent.page("application/openmetrics-text; version=1.0.0")
    assert page.endswith("# EOF\n")
    new = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in openmetrics_families(page)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    still = {key: value for key, value in old.items() if not key[0].startswith("virtstatd_")}
    assert {key: new[key] for key in still} == still
    assert {dict(labels)["domain"] for _, labels in still if "domain" in dict(labels)} == set(
        lab.names()
    )


@pytest.mark.timeout(180)
async def test_debians_prometheus_scrapes_the_agent(lab: Lab, tmp_path: Path):
    """Prometheus says `up 1` and knows every guest by its exact name."""
    with (
        running(tmp_path, lab.uri_readonly) as agent,
        tempfile.TemporaryDirectory(prefix="prometheus") as folder,
    ):
        await asyncio.to_thread(agent.wait_for, lambda: agent.value("libvirt_up") == 1)
        await asyncio.to_thread(
            agent.wait_for,
            lambda: agent.value("virtstatd_age_seconds", tier="extra") is not None,
        )
        port = free_port()
        file = Path(folder, "prometheus.yml")
        await asyncio.to_thread(
            file.write_text, SCRAPE.format(target=agent.address.removeprefix("http://"))
        )
        command = [
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        async with serving(command, ready=f"http://127.0.0.1:{port}/-/ready"):
            url = f"http://127.0.0.1:{port}/api/v1/query"
            names: set[str] = set()
            async with asyncio.timeout(100):
                while names != set(lab.names()):
                    found = await asked(url, query="libvirt_domain_info_cpu_time_seconds_total")
                    names = {each["metric"]["domain"] for each in found["data"]["result"]}
                    await asyncio.sleep(0.2)
            up = await asked(url, query="up")
            assert [each["value"][1] for each in up["data"]["result"]] == ["1"]
