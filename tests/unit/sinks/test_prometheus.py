"""The scrape endpoint as clients see it, kind ones and others."""

import asyncio
import gzip
import json
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from support.servers import needs
from support.web import ask, get, opened
from virtstatd.catalog import shipped
from virtstatd.config.file import parse_config
from virtstatd.errors import ConfigError
from virtstatd.model import Batch, Field, Kind, Reading, Series, Shape
from virtstatd.sinks.prometheus import prefers_openmetrics
from virtstatd.testing import TAKEN_AT, hostile_batch, make_batch, make_domain, make_shapes


SINK = "[[sink]]\ntype = 'prometheus'\nlisten_address = '127.0.0.1:0'\n"
PROMETHEUS_ASKS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


async def test_a_batch_is_scraped_as_soon_as_it_was_sent():
    """What was sent is on the page, in both formats, and as gzip the same."""
    batch = hostile_batch()
    async with opened(SINK) as it:
        await it.send(batch)
        status, headers, body = await get(it.port)
        assert (status, headers["content-type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        families = read_text(body.decode())
        assert sum(len(family.samples) for family in families) == batch.samples
        _, headers, zipped = await get(it.port, Accept_Encoding="gzip, deflate")
        assert headers["content-encoding"] == "gzip"
        assert gzip.decompress(zipped) == body
        _, headers, body = await get(it.port, Accept=PROMETHEUS_ASKS)
        assert headers["content-type"] == (
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        )
        families = read_openmetrics(body.decode())  # type: ignore[no-untyped-call]
        assert sum(len(family.samples) for family in families) == batch.samples


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (PROMETHEUS_ASKS, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=0.0.1", False),
        ('application/openmetrics-text; version="1.0.0"', True),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.8", False),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.1", True),
        ("application/openmetrics-text;q=0.5,*/*;q=0.8", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        (";;,,=;q", False),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.2", True),
    ],
)
def test_negotiation(accept: str, *, wanted: bool):
    """OpenMetrics 1.0 is given to those who ask for it by name and weigh it no less than text."""
    assert prefers_openmetrics(accept) is wanted


async def test_the_other_paths():
    """Health, readiness and the page for people have paths of their own beside the numbers."""
    async with opened(f"{SINK}path = '/other'") as it:
        status, headers, body = await get(it.port, "/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b'id="page"' in body
        assert (await get(it.port, "/-/healthy"))[0] == 200
        assert (await get(it.port, "/-/ready"))[0] == 503
        await it.send(make_batch())
        assert (await get(it.port, "/-/ready"))[0] == 200
        assert (await get(it.port, "/other?x=1"))[0] == 200
        assert (await get(it.port, "/metrics"))[0] == 404


@pytest.mark.parametrize(
    "path", ["/-/healthy", "/api/v1/host", "/assets/x", "metrics", "/a b", "/metrics\n"]
)
def test_paths_that_a_page_cannot_have(path: str):
    """A path that is the agent's own, or none, is a fault of its option."""
    with pytest.raises(ConfigError, match=r"sink\[0\]\.path: "):
        parse_config(f"{SINK}path = {json.dumps(path)}", "v.toml")


@pytest.mark.slow
async def test_two_hundred_scrapes_at_once():
    """Many scrapes together are answered from one page, or turned away; then all is as before."""
    async with opened(SINK) as it:
        await it.send(make_batch(30))
        answers = await asyncio.gather(
            *(ask(it.port, b"GET /metrics HTTP/1.0\r\n\r\n") for _ in range(200))
        )
        served_well = [each for each in answers if each.startswith(b"HTTP/1.1 200")]
        longest = max(map(len, served_well))  # one that a busy machine kept from reading made room
        whole = [each for each in served_well if len(each) == longest]
        assert len(whole) >= 32
        assert len({each.partition(b"\r\n\r\n")[2] for each in whole}) == 1
        assert (await get(it.port))[0] == 200


async def test_a_large_page_leaves_the_loop_to_others():
    """While 80,000 samples are rendered, compressed and read, the loop turns all the time."""
    shapes = make_shapes(vcpus=60, disks=10, nics=8)
    batch = make_batch([make_domain(each) for each in range(340)], shapes=shapes)
    assert batch.samples > 75_000
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with opened(SINK) as it:
        await it.send(batch)
        counting = asyncio.create_task(count())
        scrape = asyncio.create_task(get(it.port))
        _, _, body = await scrape
        counting.cancel()
    assert len(body) > 5_000_000
    assert turns > 100


@needs("promtool")
async def test_promtool_has_no_complaint_about_the_page():
    """Prometheus' linter has nothing to say about what the endpoint gives."""
    async with opened(SINK) as it:
        await it.send(make_batch(5))
        _, _, body = await get(it.port)
    linter = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, complaints = await linter.communicate(body)
    assert (linter.returncode, complaints) == (0, b"")


async def test_the_page_in_another_tools_names():
    """Both formats show a guest under the names of another tool, and what it lacks under ours."""
    async with opened(f"{SINK}names = 'kumina'") as it:
        await it.send(guest_batch())
        for accept, read in (("", read_text), (PROMETHEUS_ASKS, read_openmetrics)):
            _, _, body = await get(it.port, Accept=accept)
            families = list(read(body.decode()))
            shown = {s.name: s.labels for family in families for s in family.samples}
            guest = {"domain": "vm-1", "uuid": make_domain(1).uuid}
            assert shown == {
                "libvirt_domain_state_code": guest,
                "libvirt_domain_info_state_reason": {
                    "domain": "vm-1",
                    "reason": "booted",
                },
            }
    async with opened(f"{SINK}names = 'kumina'\nown_names = false") as it:
        await it.send(guest_batch())
        _, _, body = await get(it.port)
        assert b"state_reason" not in body


def guest_batch() -> Batch:
    """Return the state of a guest as the agent has it."""
    shape = shipped().shape(
        "state",
        [
            ("state", {"state": "running", "state_desc": "the domain is running"}),
            ("reason", {"reason": "booted"}),
        ],
    )
    reading = Reading(make_domain(1), shape, (1, 1))
    return Batch("bulk", TAKEN_AT, (reading,), frozenset({"state"}))


async def test_the_page_says_when_counters_began():
    """With `created` OpenMetrics has the start of the guest's process with every counter."""
    started = TAKEN_AT // 10**9 - 100
    hostile = make_domain(2, 'a\rb "c} 1\n')
    cpu = shipped().shape("cpu", [("time", ()), ("user", ())])
    field = Field("libvirt_domain", "start_time", Kind.GAUGE, "seconds", "")
    process = Shape("local", (Series(field),))
    readings = [Reading(guest, process, (started,)) for guest in (make_domain(1), hostile)]
    readings += [Reading(each.domain, cpu, (10**9, 7)) for each in readings]
    batch = Batch("bulk", TAKEN_AT, tuple(readings))
    name = "libvirt_domain_info_cpu_time_seconds"
    for option, wanted in (("created = true", {started}), ("", set())):
        async with opened(SINK + option) as it:
            await it.send(batch)
            _, _, body = await get(it.port, Accept=PROMETHEUS_ASKS)
            families = list(read_openmetrics(body.decode()))  # type: ignore[no-untyped-call]
            samples = [each for family in families for each in family.samples]
            created = [each for each in samples if each.name == f"{name}_created"]
            totals = [each.labels for each in samples if each.name == f"{name}_total"]
            assert {each.value for each in created} == wanted
            assert [each.labels for each in created] == (totals if wanted else [])
            assert len(totals) == 2
            _, _, body = await get(it.port)
            assert b"_created" not in body
