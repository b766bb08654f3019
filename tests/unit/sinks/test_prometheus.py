"""The scrape endpoint as clients see it, kind ones and others."""

import asyncio
import gzip
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from support.servers import needs
from virtstatd.errors import StartError
from virtstatd.sending.address import inherited, split_address
from virtstatd.serving.listener import ClientLimits, Request, Response, listening, text_response
from virtstatd.sink import Batch, Opening, Send
from virtstatd.sinks.prometheus import Prometheus, prefers_openmetrics
from virtstatd.testing import hostile_batch, make_batch, make_domain, make_shapes


PROMETHEUS_ASKS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@asynccontextmanager
async def opened(sink: Prometheus | None = None) -> AsyncIterator[tuple[Send, int]]:
    """Open a sink on a free port."""
    log = structlog.testing.CapturingLogger()
    sink = sink or Prometheus(listen_address="127.0.0.1:0")
    async with sink.open(Opening("prometheus", log)) as send:
        yield send, log.calls[0].kwargs["port"]


@asynccontextmanager
async def served(limits: ClientLimits, body: bytes = b"yes\n") -> AsyncIterator[int]:
    """Serve one body at every path within other limits."""

    async def answer(_: Request) -> Response:
        return Response((body,), len(body))

    sock = socket.create_server(("127.0.0.1", 0))
    async with listening(sock, answer, structlog.testing.CapturingLogger(), limits):
        yield sock.getsockname()[1]


@asynccontextmanager
async def connected(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and leave nothing behind."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def taken_now(batch: Batch) -> Batch:
    """Return a batch as if it had just been taken."""
    return replace(batch, taken_at=time.time_ns())


async def ask(port: int, raw: bytes) -> bytes:
    """Send bytes and return everything up to the end of the connection."""
    async with connected(port) as (reader, writer):
        writer.write(raw)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def get(
    port: int, path: str = "/metrics", **headers: str
) -> tuple[int, dict[str, Any], bytes]:
    """Return status, headers and body of one request."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    raw = await ask(port, f"GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *rest = head.decode().split("\r\n")
    found = dict(line.lower().split(": ", 1) for line in rest)
    assert int(found["content-length"]) == len(body)
    return int(status.split()[1]), found, body


async def test_a_batch_is_scraped_as_soon_as_it_was_sent():
    """What was sent is on the page, in both formats, and as gzip the same."""
    batch = taken_now(hostile_batch())
    async with opened() as (send, port):
        await send(batch)
        status, headers, body = await get(port)
        assert (status, headers["content-type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        families = read_text(body.decode())
        assert sum(len(family.samples) for family in families) == batch.samples
        _, headers, zipped = await get(port, Accept_Encoding="gzip, deflate")
        assert headers["content-encoding"] == "gzip"
        assert gzip.decompress(zipped) == body
        _, headers, body = await get(port, Accept=PROMETHEUS_ASKS)
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
    """The front page links to the numbers; health and readiness have their own answers."""
    async with opened(Prometheus(listen_address="127.0.0.1:0", path="/other")) as (send, port):
        status, headers, body = await get(port, "/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b'href="/other"' in body
        assert (await get(port, "/-/healthy"))[0] == 200
        assert (await get(port, "/-/ready"))[0] == 503
        await send(taken_now(make_batch()))
        assert (await get(port, "/-/ready"))[0] == 200
        assert (await get(port, "/other?x=1"))[0] == 200
        assert (await get(port, "/metrics"))[0] == 404


async def test_one_connection_serves_many():
    """Requests that follow each other on one connection, also at once, are answered in order."""
    async with opened() as (_, port), connected(port) as (reader, writer):
        for path in (b"/", b"/-/healthy"):
            writer.write(b"GET %s HTTP/1.1\r\n\r\n" % path)
        writer.write(b"HEAD /-/healthy HTTP/1.1\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
    assert text.count("HTTP/1.1 200 OK") == 3
    assert text.index("<h1>") < text.index("is running")
    assert text.endswith("\r\n\r\n")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n", 400),
        (b"GET / FTP/1.1\r\n\r\n", 400),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 413),
        (b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 1_000_000, 431),
        (b"A" * 100_000, 431),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)
async def test_what_is_no_request_gets_an_answer_and_the_door(raw: bytes, status: int):
    """Anything that is not a plain GET is told why, and its connection ends."""
    async with opened() as (_, port):
        assert (await ask(port, raw)).startswith(b"HTTP/1.1 %d " % status)
        assert (await get(port, "/-/healthy"))[0] == 200


async def test_clients_that_leave_are_no_fault():
    """Connections that end anywhere leave the others alone, and nothing in the log."""
    log = structlog.testing.CapturingLogger()
    sink = Prometheus(listen_address="127.0.0.1:0")
    async with sink.open(Opening("prometheus", log)) as send:
        await send(taken_now(make_batch(50)))
        port = log.calls[0].kwargs["port"]
        raw = b"GET /metrics HTTP/1.1\r\n\r\n"
        for length in range(len(raw) + 1):
            async with connected(port) as (_, writer):
                writer.write(raw[:length])
        assert (await get(port))[0] == 200
    assert len(log.calls) == 1


async def test_a_client_that_drips_is_cut_off():
    """A request that is not complete in time ends its connection, whatever still drips in."""
    async with (
        served(ClientLimits(request_seconds=0.3)) as port,
        connected(port) as (reader, writer),
        asyncio.timeout(100),
    ):
        writer.write(b"GET / HT")
        dripped = 0

        async def drip() -> None:
            nonlocal dripped
            while True:
                writer.write(b"x")
                dripped += 1
                await asyncio.sleep(0.001)

        dripping = asyncio.create_task(drip())
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        dripping.cancel()
    assert dripped > 1


async def test_a_silent_client_is_cut_off():
    """A connection on which nothing is asked does not stay."""
    async with served(ClientLimits(request_seconds=0.1)) as port, asyncio.timeout(100):
        assert await ask(port, b"") == b""


@pytest.mark.slow
async def test_a_client_that_never_reads_is_cut_off():
    """An answer that nobody takes is given up, with no more of it in memory than the page."""
    body = b"x" * 20_000_000
    async with (
        served(ClientLimits(write_seconds=2), body) as port,
        connected(port) as (reader, writer),
        asyncio.timeout(100),
    ):
        transport = cast("asyncio.Transport", writer.transport)
        transport.pause_reading()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        others = [await get(port, "/") for _ in range(2)]
        assert [len(answer[2]) for answer in others] == [len(body)] * 2
        await asyncio.sleep(2.5)  # the deadline itself: there is no clock to hand in to a transport
        transport.resume_reading()
        with suppress(ConnectionResetError):
            assert len(await reader.read()) < len(body)


async def test_half_open_connections_make_room():
    """However many connections wait for their client, one that asks is answered."""
    limits = ClientLimits(connections=8, grace_seconds=0)
    idle = []
    async with served(limits) as port:
        for _ in range(40):
            idle.append(await asyncio.open_connection("127.0.0.1", port))
            idle[-1][1].write(b"GET / HTTP/1.1\r\n")
        assert (await get(port, "/"))[2] == b"yes\n"
        ended = [reader for reader, _ in idle[:32] if await _ends(reader)]
        assert len(ended) >= 32 - limits.connections
        for _, writer in idle:
            writer.transport.abort()


async def test_when_all_are_at_work_the_next_is_turned_away():
    """Beyond the limit a connection gets 503 at once, and those before it are served."""
    go = asyncio.Event()
    at_work = asyncio.Semaphore(0)

    async def answer(_: Request) -> Response:
        at_work.release()
        await go.wait()
        return text_response("late")

    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    async with listening(
        sock, answer, structlog.testing.CapturingLogger(), ClientLimits(connections=4)
    ):
        asked = [asyncio.create_task(get(port, "/")) for _ in range(4)]
        for _ in asked:
            await at_work.acquire()
        assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
        go.set()
        assert [(await task)[0] for task in asked] == [200] * 4
        assert (await get(port, "/"))[0] == 200


@pytest.mark.slow
async def test_two_hundred_scrapes_at_once():
    """Many scrapes together are answered from one page, or turned away; then all is as before."""
    async with opened() as (send, port):
        await send(taken_now(make_batch(30)))
        answers = await asyncio.gather(
            *(ask(port, b"GET /metrics HTTP/1.0\r\n\r\n") for _ in range(200))
        )
        served_well = [each for each in answers if each.startswith(b"HTTP/1.1 200")]
        assert len(served_well) >= 64
        assert len({each.partition(b"\r\n\r\n")[2] for each in served_well}) == 1
        assert (await get(port))[0] == 200


async def test_a_large_page_leaves_the_loop_to_others():
    """While 80,000 samples are rendered, compressed and read, the loop turns all the time."""
    shapes = make_shapes(vcpus=60, disks=10, nics=8)
    batch = taken_now(make_batch([make_domain(each) for each in range(340)], shapes=shapes))
    assert batch.samples > 75_000
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with opened() as (send, port):
        await send(batch)
        counting = asyncio.create_task(count())
        scrape = asyncio.create_task(get(port))
        _, _, body = await scrape
        counting.cancel()
    assert len(body) > 5_000_000
    assert turns > 100


async def test_a_port_in_use_is_one_sentence():
    """A port that is taken is said in one sentence with the mend."""
    async with opened() as (_, port):
        with pytest.raises(StartError, match=r"in use; stop .* or choose another port$"):
            async with opened(Prometheus(listen_address=f"127.0.0.1:{port}")):
                pass


async def test_an_address_of_another_machine_is_one_sentence():
    """An address that this host does not have is said in one sentence with the mend."""
    with pytest.raises(StartError, match="is not one of this machine; choose one that is"):
        async with opened(Prometheus(listen_address="192.0.2.1:9766")):
            pass


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("127.0.0.1:9766", ("127.0.0.1", 9766)),
        ("[::1]:9766", ("::1", 9766)),
        (":9766", ("", 9766)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses(address: str, wanted: tuple[str, int]):
    """Addresses are host and port, IPv6 in brackets, no host for all of them."""
    assert split_address(address) == wanted


@pytest.mark.parametrize("address", ["", "9766", "::1:9766", "a:b", "a:70000", "a:-1", "a:1²"])
def test_bad_addresses(address: str):
    """What is no address is refused when the sink is configured, naming the option."""
    with pytest.raises(ValueError, match=r"^listen_address: must "):
        Prometheus(listen_address=address)


def has_ipv6() -> bool:
    """Tell whether the loopback has its address of version 6."""
    table = Path("/proc/net/if_inet6")
    return table.exists() and f"{1:032x}" in table.read_text(encoding="ascii")


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_ipv6():
    """The page is served at an IPv6 address too."""
    log = structlog.testing.CapturingLogger()
    batch = taken_now(make_batch(1))
    async with Prometheus(listen_address="[::1]:0").open(Opening("p", log)) as send:
        await send(batch)
        reader, writer = await asyncio.open_connection("::1", log.calls[0].kwargs["port"])
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.transport.abort()
    assert b" 200 " in head.splitlines()[0]
    families = read_text(body.decode())
    assert sum(len(family.samples) for family in families) == batch.samples


async def test_ports_are_free_again():
    """An endpoint that was closed can be opened again at once, at the same port."""
    async with opened() as (_, port):
        await get(port)
    for _ in range(3):
        async with opened(Prometheus(listen_address=f"127.0.0.1:{port}")) as (_, again):
            assert again == port
            await get(port)


def test_a_socket_is_taken_over():
    """The socket that systemd hands over under the sink's name serves, and its original stays."""
    script = """
import asyncio, os, sys, structlog
from virtstatd.sink import Opening
from virtstatd.sinks.prometheus import Prometheus
async def main():
    os.environ["LISTEN_PID"] = str(os.getpid())
    for _ in range(2):
        log = structlog.testing.CapturingLogger()
        async with Prometheus(listen_address="127.0.0.1:1").open(Opening("scrape", log)):
            print(log.calls[0].kwargs["port"])
    os.fstat(4)
asyncio.run(main())
"""
    with socket.create_server(("127.0.0.1", 0)) as sock, socket.socket() as other:
        result = subprocess.run(
            [sys.executable, "-c", _passing(other.fileno(), sock.fileno(), script)],
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "other:scrape"},
            pass_fds=[sock.fileno(), other.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.split() == [str(sock.getsockname()[1])] * 2


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "scrape", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "x", "LISTEN_FDNAMES": "scrape", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "other", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_sockets_of_others_are_left_alone(environ: dict[str, str]):
    """Sockets for another process or of another name are not taken."""
    assert inherited("scrape", environ) is None


@needs("promtool")
async def test_promtool_has_no_complaint_about_the_page():
    """Prometheus' linter has nothing to say about what the endpoint gives."""
    async with opened() as (send, port):
        await send(taken_now(make_batch(5)))
        _, _, body = await get(port)
    linter = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, complaints = await linter.communicate(body)
    assert (linter.returncode, complaints) == (0, b"")


def _passing(first: int, second: int, script: str) -> str:
    """Put the descriptors where the protocol wants them, 3 and 4, and run the script."""
    return (
        f"import os\na, b = os.dup({first}), os.dup({second})\n"
        f"a, b = (os.dup2(x, 100 + i) for i, x in enumerate((a, b)))\n"
        f"os.dup2(a, 3); os.dup2(b, 4)\n{script}"
    )


async def _ends(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.2):
            return not re.search(rb".", await reader.read())
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
