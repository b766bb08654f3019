"""The simulator at scale: 10,000 small guests, 2,000 with KVM's statistics."""

from __future__ import annotations

import os
import re
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from support.agent import Agent
from support.simulator import LibvirtError, Simulated, Wire, records, simulated, wire
from virtstatd_simulator.answers.table import STATS
from virtstatd_simulator.wire.rpc import MAX_PAYLOAD
from virtstatd_simulator.wire.xdr import Reader, pack_array, pack_int, pack_string, pack_uint


LIST = 273


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def listed(client: Wire) -> list[bytes]:
    """Return all guests, packed as a client names them."""
    reader = Reader(await client.call(LIST, pack_uint(1) * 2))
    return [
        pack_string(reader.take_string()) + reader.take_fixed(16) + pack_int(reader.take_int())
        for _ in range(reader.take_uint())
    ]


async def test_10000_guests_of_a_hundred_fields_are_answered_in_time(tmp_path: Path) -> None:
    """A full poll in 20 slices costs the simulator less than 1.5 s of CPU, a million values."""
    with simulated(tmp_path, "--domains=10000", "--profile=hundred") as host:
        client = await wire(host.socket)
        guests = await listed(client)
        assert len(guests) == 10_000
        cuts = [pack_array(guests[at : at + 500]) for at in range(0, len(guests), 500)]
        for _ in ("compiled", "as in every further poll"):
            before = cpu_seconds(host.process.pid)
            answers = [await client.call(STATS, cut + pack_uint(0) * 2) for cut in cuts]
            assert cpu_seconds(host.process.pid) - before < 1.5
        client.close()
    assert [Reader(answer).take_uint() for answer in answers] == [500] * 20
    assert {len(record["params"]) for record in records(answers[-1])} == {100}
    assert max(map(len, answers)) < min(map(len, answers)) * 1.1


async def test_the_limit_of_a_message_is_met_to_the_guest(tmp_path: Path) -> None:
    """As many guests as 33,554,408 bytes hold are answered at once, one more is refused."""
    with simulated(tmp_path, "--domains=2000", "--profile=kvm8") as host:
        host.do("stop_time")
        client = await wire(host.socket)
        guests = await listed(client)
        refusals: set[tuple[object, ...]] = set()

        async def size(first: int, last: int) -> int | None:
            asked = pack_array(guests[first:last]) + pack_uint(0) * 2
            try:
                return len(await client.call(STATS, asked))
            except LibvirtError as error:
                refusals.add(error.args)
                return None

        some = await size(0, 100) or 0
        near = 100 * MAX_PAYLOAD // some
        fits, too_many = near - 16, near + 16  # guests are nearly alike
        assert await size(0, too_many) is None
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if await size(0, middle) is None:
                too_many = middle
            else:
                fits = middle
        most, next_one = await size(0, fits), await size(fits, too_many)
        client.close()
    assert refusals == {(39, 7, "Unable to encode message payload")}
    assert most is not None
    assert next_one is not None
    assert fits > 1500
    assert most <= MAX_PAYLOAD < most + next_one - 4  # the count of records is in both


CONFIG = """
[hypervisor]
uri = "{uri}"
slice_domains = {slice}
[poll.pulse]
interval_seconds = 60.0
[poll.monitor]
interval_seconds = 60.0
[budget]
host_cpu_percent = 0
[local]
enabled = false
[agent]
interval_seconds = 1.0
[[sink]]
type = "prometheus"
listen_address = "127.0.0.1:0"
"""
ROOM = "buffer_bytes = 268435456\n"  # for the batch of a thousand such guests


@pytest.mark.timeout(300)
@pytest.mark.parametrize("slice_domains", [25, pytest.param(10_000, marks=pytest.mark.soak)])
def test_the_agent_loses_none_of_2000_guests(tmp_path: Path, slice_domains: int) -> None:
    """Guests whose statistics fit into no single message are all polled, whatever the slices."""
    file = tmp_path / "virtstatd.toml"
    with simulated(tmp_path, "--domains=2000", "--profile=kvm8") as host:
        text = CONFIG.format(uri=host.uri, slice=slice_domains)
        file.write_text(text + ROOM * (slice_domains > 2000))
        agent = Agent(file)
        try:
            page = polled(host, agent, 2 if slice_domains > 2000 else 80)
        finally:
            assert agent.stop() == 0
    for series, count in {"info_state": 1, "vcpu_kvm_total": 8 * 40, "vm_kvm_total": 8}.items():
        found = Counter(re.findall(rf'(?m)^libvirt_domain_{series}{{domain="(.*?)"', page))
        assert (len(found), set(found.values())) == (2000, {count})
    calls = dict(
        re.findall(r'(?m)^virtstatd_calls_total{tier="extra",outcome="(.*)"} (\d+)$', page)
    )
    assert calls.pop("ok") >= "1"
    assert (calls.pop("oversize") != "0") == (slice_domains > 2000)
    assert (calls["refused"], calls["disconnected"]) == ("0", "0")
    assert set(re.findall(r"(?m)^virtstatd_missing_domains{.*} (.*)$", page)) == {"0"}
    assert agent.events("domain.oversize") == []


def polled(host: Simulated, agent: Agent, calls: int) -> str:
    """Return the page after the first poll of everything, which takes so many calls."""

    def fetch() -> str:
        with urllib.request.urlopen(f"{agent.address}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    page, spent = "", 0.0

    def complete() -> bool:
        nonlocal page, spent
        before, spent = spent, cpu_seconds(agent.process.pid)
        asked = host.do("status")["calls"].get("CONNECT_GET_ALL_DOMAIN_STATS", 0)
        if asked >= calls and spent == before:  # a page of 80 MB is not for every look
            page = fetch()
        return (
            len(set(re.findall(r'(?m)^libvirt_domain_vm_kvm_total{domain="(.*?)"', page))) == 2000
        )

    agent.wait_for(complete, seconds=240)
    return page
