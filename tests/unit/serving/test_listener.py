"""The listener as clients see it, kind ones and others."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import cast

import pytest
import structlog

from support.certificates import certificate
from support.web import ask, connected, get, served, silent_clients
from virtstatd.serving.http import Request, Response, text_response
from virtstatd.serving.listener import ClientLimits, Connections, Held, State, client_of


ASKS = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_one_connection_serves_many():
    """Requests that follow each other on one connection, also at once, are answered in order."""

    async def answer(request: Request) -> Response:
        return text_response(request.path)

    async with served(respond=answer) as (port, _), connected(port) as (reader, writer):
        for path in (b"/a", b"/b"):
            writer.write(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        writer.write(b"HEAD /c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
    assert text.count("HTTP/1.1 200 OK") == 3
    assert text.index("/a\n") < text.index("/b\n")
    assert text.endswith("\r\n\r\n")


async def test_a_stream_comes_as_it_is_made():
    """Each event arrives when it is made; the stream ends with its client, or to make room."""
    more: asyncio.Queue[bytes] = asyncio.Queue()
    ended = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield await more.get()
        finally:
            ended.set()

    async def answer(_: Request) -> Response:
        return Response(events(), None, "text/event-stream")

    limits = ClientLimits(connections_per_client=1, write_seconds=0.001)
    async with (
        served(limits, respond=answer) as (port, connections),
        asyncio.timeout(100),
        connected(port) as (reader, writer),
    ):
        writer.write(ASKS)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert b"Content-Length" not in head
        for number in range(3):
            more.put_nowait(b"data: %d\n\n" % number)
            assert await reader.readuntil(b"\n\n") == b"data: %d\n\n" % number
        assert not ended.is_set()
        assert (await ask(port, ASKS.replace(b"GET", b"HEAD"))).startswith(b"HTTP/1.1 200 ")
        await ended.wait()
        assert connections.evicted == 1


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"garbage\r\n\r\n", 400),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", 400),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 1_000_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000, 431),
        (b"A" * 100_000, 431),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)
async def test_what_is_no_request_gets_an_answer_and_the_door(raw: bytes, status: int):
    """Anything that is not a plain GET gets the reason, and its connection ends."""
    async with served() as (port, _):
        assert (await ask(port, raw)).startswith(b"HTTP/1.1 %d " % status)
        assert (await get(port, "/-/healthy"))[0] == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"\nGET / HTTP/1.1\nHost: x\nConnection: close\n\n",
        b"GET / HTTP/1.1\nHost: x\r\nConnection: close\n\r\n",
    ],
)
async def test_line_ends_as_the_standard_has_them(raw: bytes):
    """An empty line may come first and a line may end with LF alone, RFC 9112, section 2.2."""
    async with served() as (port, _), asyncio.timeout(100):
        assert (await ask(port, raw)).startswith(b"HTTP/1.1 200 ")


async def test_clients_that_leave_are_no_fault():
    """Connections that end anywhere leave the others alone, and nothing in the log."""
    async with served(body=b"x" * 300_000) as (port, connections):
        for length in range(len(ASKS) + 1):
            async with connected(port) as (_, writer):
                writer.write(ASKS[:length])
        assert (await get(port))[0] == 200
    assert connections.log.calls == []  # type: ignore[attr-defined]
    assert len(connections) == 0


async def test_a_fault_of_ours_costs_its_connection_alone():
    """An answer that cannot be made is logged, and the next one is made."""

    async def answer(request: Request) -> Response:
        if request.path == "/odd":
            raise ZeroDivisionError
        return text_response("yes")

    async with served(respond=answer) as (port, connections):
        assert await ask(port, ASKS.replace(b"/ ", b"/odd ")) == b""
        assert (await get(port))[0] == 200
    calls: list[structlog.testing.CapturedCall] = connections.log.calls  # type: ignore[attr-defined]
    assert [call.args for call in calls] == [("web.crashed",)]


async def test_a_client_that_drips_is_cut_off():
    """A request that is not complete in time ends its connection, whatever still drips in."""
    async with (
        served(ClientLimits(request_seconds=0.3)) as (port, _),
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
    async with served(ClientLimits(request_seconds=0.1)) as (port, _), asyncio.timeout(100):
        assert await ask(port, b"") == b""


@pytest.mark.slow
async def test_a_client_that_never_reads_is_cut_off():
    """An answer that nobody takes is given up, with no more of it in memory than the page."""
    body = b"x" * 20_000_000
    async with (
        served(ClientLimits(stall_seconds=2), body) as (port, _),
        connected(port) as (reader, writer),
        asyncio.timeout(100),
    ):
        transport = cast("asyncio.Transport", writer.transport)
        transport.pause_reading()
        writer.write(ASKS)
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
    async with served(limits) as (port, _):
        for _ in range(40):
            idle.append(await asyncio.open_connection("127.0.0.1", port))
            idle[-1][1].write(b"GET / HTTP/1.1\r\n")
        assert (await get(port, "/"))[2] == b"yes\n"
        ended = [reader for reader, _ in idle[:32] if await _ends(reader)]
        assert len(ended) >= 32 - limits.connections
        for _, writer in idle:
            writer.transport.abort()


async def test_when_all_are_at_work_the_next_waits_for_its_turn():
    """Beyond the limit a connection waits a second, then gets 503; those before it are served."""
    go = asyncio.Event()
    at_work = asyncio.Semaphore(0)

    async def answer(_: Request) -> Response:
        at_work.release()
        await go.wait()
        return text_response("late")

    limits = ClientLimits(connections=4)
    async with served(limits, respond=answer) as (port, connections):
        asked = [asyncio.create_task(get(port, "/")) for _ in range(4)]
        for _ in asked:
            await at_work.acquire()
        assert (await ask(port, ASKS)).startswith(b"HTTP/1.1 503 ")
        go.set()
        assert [(await task)[0] for task in asked] == [200] * 4
        assert (await get(port, "/"))[0] == 200
        assert (connections.refused, connections.evicted) == (1, 0)


@pytest.mark.parametrize("raw", [ASKS, b"GET / HT", b""], ids=["asks", "drips", "silent"])
async def test_those_who_do_not_read_or_ask_make_room(raw: bytes):
    """However many clients neither read nor ask, another one is answered in time."""
    limits = ClientLimits(
        connections=8, connections_per_client=8, own_grace_seconds=0, stall_seconds=1000
    )
    async with served(limits, b"x" * 3_000_000) as (port, connections), asyncio.timeout(20):
        with silent_clients(port, 40, raw):
            for _ in range(20):
                assert len((await get(port))[2]) == 3_000_000
            assert len(connections) <= 8
        assert connections.evicted >= 32


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True])
async def test_hundreds_of_hostile_clients_cost_no_scrape(tmp_path: Path, *, encrypted: bool):
    """Beside 500 clients that do not read, drip, say nothing or rubbish, 200 scrapes succeed."""
    files = certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*files)

    async def context() -> ssl.SSLContext | None:
        return server if encrypted else None

    tls = ssl.create_default_context(cafile=files[0]) if encrypted else None
    kinds = (ASKS, b"GET / HT", b"", b"\x16\x03\x01\xff\r\n\r\n")
    async with served(None, b"x" * 300_000, tls=context) as (port, connections):
        for number, raw in enumerate(kinds):
            with silent_clients(port, 125, raw, f"127.0.0.{2 + number}"):
                for _ in range(50):
                    async with asyncio.timeout(100):
                        assert len((await get(port, tls=tls))[2]) == 300_000
                assert len(connections) <= connections.limits.connections
    assert connections.refused <= 500
    assert connections.log.calls == []  # type: ignore[attr-defined]


async def test_one_client_takes_no_more_than_its_share():
    """A client that holds all it may makes room for itself; one of another address has its own."""
    limits = ClientLimits(
        connections=12,
        connections_per_client=8,
        grace_seconds=1000,
        own_grace_seconds=1000,
        stall_seconds=1000,
    )
    async with served(limits) as (port, connections), asyncio.timeout(20):
        with silent_clients(port, 20, b""):
            assert (await get(port, source="127.0.0.2"))[0] == 200
            assert (await get(port))[0] == 200  # in place of one of its own
            assert len(connections) <= 9
            with ExitStack() as others:
                for last in range(3, 7):
                    others.enter_context(silent_clients(port, 1, b"", f"127.0.0.{last}"))
                # all are taken: the one with the most gives one up, without grace
                assert (await get(port, source="127.0.0.9"))[0] == 200
            assert connections.evicted >= 1


def test_who_has_asked_goes_last():
    """Of one client's connections those go that have sent nothing; else a new one is refused."""
    log = structlog.testing.CapturingLogger()
    connections = Connections(log, ClientLimits(connections_per_client=2))
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    theirs.send(b"G")
    assert ours.recv(1) == b"G"  # read by the loop, and answered by nobody yet
    asked, silent = Held(ours, "a", 0.999), held("a", 1.0)
    new, refused = held("a", 1.0, State.WORKING), held("a", 1.0)
    assert connections.admitted(asked, 0.999)
    assert connections.admitted(silent, 1.0)
    assert connections.admitted(new, 1.0)
    assert silent.sock.fileno() < 0
    assert not connections.admitted(refused, 1.0)
    assert connections.admitted(refused, 1.1)
    assert ours.fileno() < 0
    for each in (new, refused):
        each.cut()
    theirs.close()


def held(client: str, since: float, state: State = State.WAITING) -> Held:
    """Make a connection that was in a state since then."""
    it = Held(socket.socket(), client, since)
    it.state = state
    return it


def test_who_makes_room():
    """Those who wait go before those who do not read, the longest first; who works stays."""
    log = structlog.testing.CapturingLogger()
    connections = Connections(log, ClientLimits(connections=4, grace_seconds=1.0))
    reading = held("a", 1.0, State.SENDING)
    working = held("b", 0.0, State.WORKING)
    early, late = held("c", 2.0), held("d", 3.0)
    everybody = [reading, working, early, late]
    for each in everybody:
        assert connections.admitted(each, each.since)
    gone = []
    for number in range(3):
        new = held(f"n{number}", 10.0, State.WORKING)
        assert connections.admitted(new, 10.0)
        everybody.append(new)
        gone += [each for each in everybody if each.sock.fileno() < 0 and each not in gone]
    last = held("z", 20.0)
    assert gone == [early, late, reading]
    assert not connections.admitted(last, 20.0)
    assert connections.evicted == 3
    for each in (*everybody, last):
        each.cut()


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_who_counts_as_one(peer: str, client: str):
    """An address of IPv4 is one client, also where it comes mapped into IPv6."""
    assert client_of(peer) == client


def test_a_network_of_ipv6_is_one_client():
    """Addresses that one machine may take at will are one client."""
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:2%eth0")
    assert client_of("2001:db8::1") != client_of("2001:db8:0:1::1")


async def test_over_tls_all_is_the_same(tmp_path: Path):
    """An encrypted client is answered beside others that never finish their handshake."""
    files = certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*files)

    async def context() -> ssl.SSLContext:
        return server

    trusting = ssl.create_default_context(cafile=files[0])
    limits = ClientLimits(
        connections=8, connections_per_client=8, own_grace_seconds=0, stall_seconds=1000
    )
    body = b"x" * 3_000_000
    async with served(limits, body, tls=context) as (port, connections), asyncio.timeout(20):
        with silent_clients(port, 20, b"\x16\x03"), silent_clients(port, 20, ASKS):
            for _ in range(5):
                assert (await get(port, tls=trusting))[2] == body
            assert len(connections) <= 8
        assert await ask(port, ASKS) == b""
    assert connections.log.calls == []  # type: ignore[attr-defined]


async def _ends(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.2):
            return not re.search(rb".", await reader.read())
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
