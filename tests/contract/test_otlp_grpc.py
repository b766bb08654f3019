"""OTLP over gRPC, to gRPC's own server and to servers that are none."""

import asyncio
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import StreamEnded
from h2.exceptions import ProtocolError
from hypothesis import given
from hypothesis import strategies as st

from support.certificates import certificate
from support.grpc_stub import credentials, receiving, retry_info
from support.http_stub import scripted
from support.wire.otlp import points, wanted
from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Buffer
from virtstatd.pipeline.outlet import Outlet
from virtstatd.sending.access import Access
from virtstatd.sending.grpc import grpc_client
from virtstatd.sending.grpc_details import retry_delay
from virtstatd.sink import Denied, Rejected, TooLarge, Trains, TryLater
from virtstatd.sinks.otlp import METHOD, Otlp
from virtstatd.testing import TAKEN_AT, check_sink, hostile_batch, make_batch
from virtstatd.testing.contract import opening


CODE = grpc.StatusCode


def sink(url: str, **options: Any) -> Otlp:
    """Return a sink that calls."""
    return Otlp(url=url, protocol="grpc", **options)


async def outcome(url: str, batch: Batch, **options: Any) -> BaseException | None:
    """Send once, with a sink of its own, and return what was raised."""
    async with sink(url, **options).open(opening()) as send, asyncio.timeout(100):
        try:
            await send(batch)
        except (TryLater, Rejected) as error:
            return error
    return None


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("batch", [make_batch(30), hostile_batch()], ids=["plain", "hostile"])
async def test_every_point_arrives(batch: Batch, compress: bool):
    """A collector gets each point once, whatever the names are, compressed or not."""
    async with receiving() as receiver:
        options = {"request_samples": 100, "compress": compress}
        async with sink(receiver.url, **options).open(opening()) as send:
            await send(batch)
        assert points(receiver.requests) == wanted(batch, 0, TAKEN_AT)
        assert "virtstatd/" in receiver.metadata[0]["user-agent"]


async def test_requests_larger_than_any_window():
    """What is more than the server's windows and the kernel's buffers hold arrives as well."""
    batch = make_batch(800)
    async with receiving(options=[("grpc.max_receive_message_length", -1)]) as receiver:
        options = {"request_samples": 100_000, "compress": False}
        async with sink(receiver.url, **options).open(opening()) as send:
            for _ in range(2):
                await send(batch)
        assert [each.ByteSize() for each in receiver.requests] > [1 << 20] * 2
        assert points(receiver.requests[:1]) == wanted(batch, 0, TAKEN_AT)


async def test_contract_with_a_receiver_that_comes_and_goes():
    """The sink keeps the contract while the receiver is there, away, refusing or silent."""
    async with receiving() as receiver:
        await check_sink(
            lambda: sink(receiver.url),
            received=receiver.count,
            moods={"later": receiver.away, "never": receiver.refusing, "stuck": receiver.silent},
        )


@pytest.mark.parametrize(
    ("code", "raised", "answered"),
    [
        (CODE.CANCELLED, TryLater, True),
        (CODE.UNKNOWN, Rejected, None),
        (CODE.INVALID_ARGUMENT, Rejected, None),
        (CODE.DEADLINE_EXCEEDED, TryLater, True),
        (CODE.NOT_FOUND, Denied, None),
        (CODE.ALREADY_EXISTS, Rejected, None),
        (CODE.PERMISSION_DENIED, Denied, None),
        (CODE.RESOURCE_EXHAUSTED, Rejected, None),
        (CODE.FAILED_PRECONDITION, Rejected, None),
        (CODE.ABORTED, TryLater, True),
        (CODE.OUT_OF_RANGE, TryLater, True),
        (CODE.UNIMPLEMENTED, Denied, None),
        (CODE.INTERNAL, Rejected, None),
        (CODE.UNAVAILABLE, TryLater, True),
        (CODE.DATA_LOSS, TryLater, True),
        (CODE.UNAUTHENTICATED, Denied, None),
    ],
)
async def test_each_status(code: grpc.StatusCode, raised: type, answered: bool | None):
    """A status means one thing to the outlet, and its text is told in one harmless line."""
    async with receiving() as receiver:
        receiver.status, receiver.said = code, "be\ncause \N{SNOWMAN} %41" + "x" * 400
        error = await outcome(receiver.url, make_batch(1))
    assert type(error) is raised
    assert getattr(error, "answered", None) is answered
    assert f"answers {code.name}: be cause" in str(error)
    assert "%41" in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 350


async def test_retry_info():
    """The pause that a receiver asks for is passed on, and makes exhaustion a passing state."""
    async with receiving() as receiver:
        receiver.details = retry_info(7, 500_000_000)
        for code in (CODE.RESOURCE_EXHAUSTED, CODE.UNAVAILABLE):
            receiver.status = code
            error = await outcome(receiver.url, make_batch(1))
            assert isinstance(error, TryLater)
            assert error.after_seconds == 7.5
        receiver.details = b"\xff\xff rubbish"
        error = await outcome(receiver.url, make_batch(1))
        assert isinstance(error, TryLater)
        assert error.after_seconds is None


@pytest.mark.parametrize("text", ["", "!", "AAA", "////", "GgA=", "GgIKAA==", "CgD/"])
def test_details_that_make_no_sense(text: str):
    """Whatever stands in the details, it is no pause unless it is one."""
    assert retry_delay(text) is None


@given(st.binary(max_size=40))
def test_details_of_any_kind(details: bytes):
    """No details make an exception, and a pause is never negative."""
    for text in (details, retry_info(7, 0)[:-2] + details):
        pause = retry_delay(b64encode(text).decode())
        assert pause is None or pause >= 0


async def test_a_message_that_is_too_large():
    """A receiver of small messages gets everything in parts; a single one too large is told."""
    batch = make_batch(20)
    async with receiving(options=[("grpc.max_receive_message_length", 8000)]) as receiver:
        async with sink(receiver.url).open(opening()) as send:
            one = Outlet(
                "otlp",
                send,
                structlog.get_logger(),
                time.monotonic,
                Buffer(1 << 30),
                attempt_seconds=60.0,
                max_age_seconds=1e12,
                trains=Trains(5000, 4),
            )
            one.offer(batch)
            one.close()
            await one.run()
        assert len(receiver.requests) > 3
        found = points(receiver.requests)
        async with grpc_client(Access(url=receiver.url), METHOD) as client:
            with pytest.raises(TooLarge, match="larger than max"):
                await client.call(b"\0" * 9000, compress=False)
    assert found == wanted(batch, 0, TAKEN_AT)


async def test_partial_success():
    """Points that were refused in a successful answer are counted as lost, and not sent again."""
    async with receiving() as receiver:
        receiver.response.partial_success.rejected_data_points = 3
        receiver.response.partial_success.error_message = "too old"
        error = await outcome(receiver.url, make_batch(1))
        assert len(receiver.requests) == 1
    assert type(error) is Rejected
    assert error.samples == 3
    assert "3 data points were refused: too old" in str(error)


async def test_a_receiver_that_comes_back():
    """After a restart the same sink delivers over a connection of its own making."""
    async with receiving() as receiver, sink(receiver.url).open(opening()) as send:
        await send(make_batch(1))
        async with receiver.away():
            with pytest.raises(TryLater):
                await send(make_batch(2))
        async with asyncio.timeout(100):
            while len(receiver.requests) < 2:
                try:
                    await send(make_batch(2))
                except TryLater:
                    await asyncio.sleep(0.01)
        assert points(receiver.requests[1:]) == wanted(make_batch(2), 0, TAKEN_AT)


async def test_tokens_and_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A token is shown as metadata, as the file has it now; a tenant's header goes with it."""
    monkeypatch.setattr("virtstatd.sending.watched.LOOK_SECONDS", 0.0)
    token = tmp_path / "token"
    token.write_text("one")
    options = {"token_file": str(token), "headers": {"X-Tenant": "t 1", "TE": "nonsense"}}
    async with receiving() as receiver, sink(receiver.url, **options).open(opening()) as send:
        await send(make_batch(1))
        token.write_text("two")
        await send(make_batch(1))
        shown = [(each["authorization"], each["x-tenant"]) for each in receiver.metadata]
        receiver.status, receiver.said = CODE.PERMISSION_DENIED, "what is two?"
        with pytest.raises(Denied) as caught:
            await send(make_batch(1))
    assert shown == [("Bearer one", "t 1"), ("Bearer two", "t 1")]
    assert "two" not in str(caught.value)


async def test_tls(tmp_path: Path):
    """Both sides show their certificates; who shows none, or a wrong one, is told so."""
    server, own = certificate(tmp_path), certificate(tmp_path, "agent")
    elsewhere, old = certificate(tmp_path, "elsewhere"), certificate(tmp_path, days=-1)
    mine = {"certificate_file": str(own[0]), "key_file": str(own[1])}
    async with receiving(credentials(server, own[0])) as receiver:
        ca = {"ca_file": str(server[0])}
        assert await outcome(receiver.url, make_batch(1), **ca, **mine) is None
        assert isinstance(await outcome(receiver.url, make_batch(1), **ca), TryLater)
        assert len(receiver.requests) == 1
    for files, words in ((elsewhere, "not valid for 'localhost'"), (old, "has expired")):
        async with receiving(credentials(files)) as receiver:
            error = await outcome(receiver.url, make_batch(1), ca_file=str(files[0]))
            assert isinstance(error, TryLater)
            assert words in str(error)
            named = {"ca_file": str(files[0]), "server_name": "elsewhere"}
            error = await outcome(receiver.url, make_batch(1), **named)
            assert (error is None) == (files is elsewhere)


Speak = Callable[[H2Connection, int], None]


@asynccontextmanager
async def speaking(speak: Speak) -> AsyncIterator[str]:
    """Run a server that answers every request as it is told, bit by bit."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        with suppress(ProtocolError):  # what comes after a farewell
            while data := await reader.read(65536):
                for event in http.receive_data(data):
                    if isinstance(event, StreamEnded):
                        speak(http, event.stream_id)
                writer.write(http.data_to_send())
                if http.state_machine.state is ConnectionState.CLOSED:
                    return

    async with scripted(script) as url:
        yield url


def endless(http: H2Connection, stream: int) -> None:
    """Answer with more than anybody wants."""
    http.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
    for _ in range(3):
        http.send_data(stream, b"x" * 16384)


def leaving(http: H2Connection, _: int) -> None:
    """Say that there will be no answer."""
    http.close_connection()


def reset(http: H2Connection, stream: int) -> None:
    """Break the stream off."""
    http.reset_stream(stream, 0x7)


def proxy(status: int) -> Speak:
    """Answer as what is no gRPC server."""

    def speak(http: H2Connection, stream: int) -> None:
        http.send_headers(stream, [(":status", str(status)), ("content-type", "text/html")])
        http.send_data(stream, b"<html>", end_stream=True)

    return speak


def nonsense(http: H2Connection, stream: int) -> None:
    """Answer with a status that is none, and no message."""
    http.send_headers(stream, [(":status", "999"), ("grpc-status", "x")], end_stream=True)


@pytest.mark.parametrize(
    ("speak", "raised", "words"),
    [
        (leaving, TryLater, "the server leaves: NO_ERROR"),
        (reset, TryLater, "the stream was reset: REFUSED_STREAM"),
        (proxy(401), Denied, "UNAUTHENTICATED"),
        (proxy(404), Denied, "UNIMPLEMENTED"),
        (proxy(503), TryLater, "UNAVAILABLE"),
        (proxy(429), TryLater, "UNAVAILABLE"),
        (proxy(418), Rejected, "UNKNOWN"),
        (nonsense, Rejected, "UNKNOWN"),
    ],
)
async def test_answers_that_are_odd(speak: Speak, raised: type, words: str):
    """Whatever a server says, it is one of the sink's two exceptions."""
    async with speaking(speak) as url:
        error = await outcome(url, make_batch(1))
    assert type(error) is raised
    assert words in str(error)


async def test_an_answer_without_end():
    """Of an answer that does not end 64 KiB are taken, then the connection is cut."""

    def speak(http: H2Connection, stream: int) -> None:
        endless(http, stream)
        streams.append(stream)

    streams: list[int] = []
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        try:
            while data := await reader.read(65536):
                for event in http.receive_data(data):
                    if isinstance(event, StreamEnded):
                        speak(http, event.stream_id)
                for stream in streams:
                    size = min(http.local_flow_control_window(stream), 16384)
                    http.send_data(stream, b"x" * size)
                writer.write(http.data_to_send())
        finally:
            gone.set()

    async with scripted(script) as url, asyncio.timeout(100):
        error = await outcome(url, make_batch(1))
        await gone.wait()
    assert isinstance(error, TryLater)
    assert "no end" in str(error)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b""])
async def test_servers_that_do_not_speak_http2(answer: bytes):
    """A server of another protocol is for later: another may be there then."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        if answer:
            writer.write_eof()
            await reader.read()

    async with scripted(script) as url:
        error = await outcome(url, make_batch(1))
    assert isinstance(error, TryLater)
    assert ("does not support HTTP/2" in str(error)) == bool(answer)


async def test_tls_without_http2(tmp_path: Path):
    """A TLS server that has not agreed to HTTP/2 is not spoken to."""
    files = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    server = await asyncio.start_server(lambda *_: None, "localhost", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await outcome(f"https://localhost:{port}", make_batch(1), ca_file=str(files[0]))
    assert isinstance(error, TryLater)
    assert "does not support HTTP/2" in str(error)


def goaway(last: int, code: int = 0, said: bytes = b"") -> bytes:
    """Return the frame by which a server says that it leaves."""
    payload = last.to_bytes(4) + code.to_bytes(4) + said
    return len(payload).to_bytes(3) + b"\7\0" + bytes(4) + payload


async def test_a_server_that_leaves_answers_first():
    """A request under way when the server leaves is answered, and the next goes elsewhere."""
    connections: list[list[int]] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams: list[int] = []
        connections.append(streams)
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        while data := await reader.read(65536):
            for event in http.receive_data(data):
                if isinstance(event, StreamEnded):
                    streams.append(event.stream_id)
                    writer.write(http.data_to_send())
                    for last in (0x7FFFFFFF, event.stream_id):  # as gRPC's servers do
                        for byte in goaway(last, said=b"max_age"):
                            writer.write(bytes([byte]))
                            await writer.drain()
                            await asyncio.sleep(0)
                    http.send_headers(event.stream_id, [(":status", "200")])
                    http.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
            writer.write(http.data_to_send())

    async with scripted(script) as url, sink(url).open(opening()) as send, asyncio.timeout(100):
        for _ in range(3):
            await send(make_batch(1))
    assert connections == [[1], [1], [1]]


@pytest.mark.parametrize("leave", [goaway(0), "refused"])
async def test_what_a_server_has_not_read_is_sent_to_the_next(leave: bytes | str):
    """A request that the server says it has not read is sent again at once, once."""
    connections: list[int] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        first = len(connections) == 1
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        while data := await reader.read(65536):
            for event in http.receive_data(data):
                if isinstance(event, StreamEnded) and first and isinstance(leave, bytes):
                    writer.write(http.data_to_send() + leave)
                elif isinstance(event, StreamEnded) and first:
                    http.reset_stream(event.stream_id, 7)
                elif isinstance(event, StreamEnded):
                    http.send_headers(event.stream_id, [(":status", "200")])
                    http.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
            writer.write(http.data_to_send())

    async with scripted(script) as url:
        assert await outcome(url, make_batch(1)) is None
    assert len(connections) == 2


async def test_why_a_server_leaves_is_the_reason():
    """What a server says when it leaves and then cuts the connection is what is reported."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(bytes.fromhex("000000040000000000") + goaway(1, 11, b"too_many\x1b_pings"))
        writer.close()

    async with scripted(script) as url:
        error = await outcome(url, make_batch(1))
    assert isinstance(error, TryLater)
    assert "the server leaves: ENHANCE_YOUR_CALM too_many _pings" in str(error)


async def test_a_collector_whose_connections_have_an_age():
    """Behind a server that ends connections by age no batch fails and none is doubled."""
    options = [("grpc.max_connection_age_ms", 50), ("grpc.max_connection_age_grace_ms", 5000)]
    async with receiving(options=options) as receiver, asyncio.timeout(100):
        sent = 0
        async with sink(receiver.url).open(opening()) as send:
            while len(set(receiver.peers)) < 4:
                await send(make_batch(1))
                sent += 1
        assert len(receiver.requests) == sent


def test_options_that_do_not_fit():
    """A path, which is for HTTP, is refused with what would be right."""
    with pytest.raises(ValueError, match=r"url: must have no path for gRPC, like http://"):
        Otlp(protocol="grpc")
    assert sink("http://localhost:4317/").protocol == "grpc"


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    """Without the library gRPC is a fault of the configuration that names the fix."""
    monkeypatch.setattr("virtstatd.sinks.otlp.find_spec", lambda _: None)
    assert Otlp().protocol == "http"
    with pytest.raises(ValueError, match=r"protocol: .*/pip install 'virtstatd\[otlp-grpc\]'"):
        sink("http://localhost:4317")
