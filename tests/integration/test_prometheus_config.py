"""The configuration for Prometheus, as it is shipped, in a real Prometheus."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.agent import running
from support.certificates import certificate
from support.demo import demonstrated
from support.ports import free_port
from support.servers import asked, needs, place, serving
from support.simulator import simulated
from virtstatd.collect.bulk.options import PollOptions
from virtstatd.serving.passwords import made


pytestmark = needs("prometheus", "promtool")

SHIPPED = Path(__file__).parents[2] / "config" / "prometheus"
FOLDER = "/etc/prometheus/virtstatd"
SECURE = re.compile(r"(?m)^(\s*)# (scheme|tls_config|basic_auth): ")
"""The lines for agents with TLS and a login, which are comments."""

PASSWORD = "correct horse"
LOGIN = """
[web]
certificate_file = "{certificate}"
key_file = "{key}"
users = {{ prometheus = '{hashed}' }}
access = {{ "/metrics" = ["prometheus"] }}
"""


def copied(folder: Path, *, secure: bool) -> Path:
    """Copy the folder as its README says, with another path than /etc; return the configuration."""
    shutil.copytree(SHIPPED, folder, dirs_exist_ok=True)
    file = folder / "scrape.yml"
    text = file.read_text()
    if secure:
        text, changed = SECURE.subn(r"\1\2: ", text)
        assert changed == 3
        (folder / "password").write_text(PASSWORD)
    file.write_text(text.replace(FOLDER, str(folder)))
    return file


def list_hosts(folder: Path, *targets: str) -> None:
    """Make a rack of these hosts; the example's are not there."""
    (folder / "hosts" / "rack-1.yml").unlink()
    rack = [{"targets": [*targets], "labels": {"rack": "rack-7"}}]
    (folder / "hosts" / "rack-7.yml").write_text(yaml.safe_dump(rack))


async def answers(url: str, query: str, count: int) -> list[dict[str, Any]]:
    """Ask until there are so many answers, and return them."""
    async with asyncio.timeout(100):
        while True:
            found: list[dict[str, Any]] = (await asked(f"{url}/api/v1/query", query=query))["data"][
                "result"
            ]
            if len(found) == count:
                return found
            await asyncio.sleep(0.2)


def command(file: Path, data: Path, url: str) -> list[str]:
    """Return what runs a Prometheus on a configuration."""
    return [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_promtool_accepts_it_with_all_files_it_names(tmp_path: Path, *, secure: bool):
    """Rules, hosts, certificate and password are found; no line of the TLS variant is wrong."""
    file = copied(tmp_path, secure=secure)
    crt, _ = certificate(tmp_path)
    crt.rename(tmp_path / "ca.pem")
    done = subprocess.run(
        ["promtool", "check", "config", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout
    assert len(list((tmp_path / "hosts").glob("*.yml"))) == 1


def test_the_interval_is_that_of_the_agent():
    """Hosts are scraped as often as their agents poll by default."""
    (job,) = yaml.safe_load((SHIPPED / "scrape.yml").read_text())["scrape_configs"]
    assert job["scrape_interval"] == f"{PollOptions().monitor.interval_seconds:g}s"


async def test_two_hosts_are_known_by_name_and_rack_and_a_third_is_missed(tmp_path: Path):
    """From the files alone: numbers of two agents, their sums, and an alert for a host without."""
    url = f"http://127.0.0.1:{free_port()}"
    with (
        place() as folder,
        demonstrated(tmp_path, "--domains=4") as one,
        demonstrated(tmp_path, "--domains=6") as other,
    ):
        file = copied(folder, secure=False)
        faster = file.read_text().replace("l: 15s", "l: 1s").replace("timeout: 10s", "timeout: 1s")
        file.write_text(faster)
        list_hosts(folder, f"127.0.0.1:{one.port}", f"localhost:{other.port}", "none.invalid:9766")
        async with serving(command(file, folder / "data", url), ready=f"{url}/-/ready"):
            guests = await answers(url, "libvirt_domains", 2)
            assert {
                (each["metric"]["instance"], each["metric"]["rack"], each["value"][1])
                for each in guests
            } == {("127.0.0.1", "rack-7", "4"), ("localhost", "rack-7", "6")}
            sums = await answers(url, "domain:cpu:ratio_rate5m", 10)
            assert {each["metric"]["rack"] for each in sums} == {"rack-7"}
            (alert,) = await answers(url, 'ALERTS{alertname="AgentDown"}', 1)
            of = alert["metric"]
            assert (of["instance"], of["rack"]) == ("none.invalid", "rack-7")
            rules = await asked(f"{url}/api/v1/rules")
    faults = [
        (rule["name"], rule["lastError"])
        for group in rules["data"]["groups"]
        for rule in group["rules"]
        if rule.get("lastError")
    ]
    assert not faults


async def test_a_host_with_tls_and_a_login_is_scraped(tmp_path: Path):
    """The commented lines fit the agent's table [web], and a wrong password shows nothing."""
    crt, key = certificate(tmp_path)
    login = LOGIN.format(certificate=crt, key=key, hashed=made(PASSWORD))
    url = f"http://127.0.0.1:{free_port()}"
    with (
        place() as folder,
        simulated(tmp_path, "--domains=3") as simulator,
        running(tmp_path, simulator.uri, more=login) as agent,
    ):
        file = copied(folder, secure=True)
        file.write_text(file.read_text().replace("l: 15s", "l: 1s").replace(": 10s", ": 1s"))
        shutil.copy(crt, folder / "ca.pem")
        port = agent.address.rpartition(":")[2]
        list_hosts(folder, f"localhost:{port}")
        async with serving(command(file, folder / "data", url), ready=f"{url}/-/ready"):
            (up,) = await answers(url, 'up{job="virtstatd"} == 1', 1)
            assert up["metric"]["instance"] == "localhost"
            (folder / "password").write_text("wrong")
            await answers(url, 'up{job="virtstatd"} == 0', 1)
