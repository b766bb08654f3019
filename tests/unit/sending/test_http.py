"""The HTTP client takes every answer for what it is, and lets none hurt."""

import asyncio
import email.utils
import gzip
import json
import resource
import socket
import ssl
import time
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from support.certificates import certificate
from support.clock import Hands
from support.http_stub import Stub, answering, scripted
from virtstatd.errors import Denied, Rejected, StartError, TooLarge, TryLater
from virtstatd.sending.access import Access
from virtstatd.sending.http import http_client, retry_after
from virtstatd.sending.watched import LOOK_SECONDS


async def outcome(stub: Stub) -> BaseException | None:
    """Post once, with a client of its own, and return what was raised."""
    async with http_client(Access(url=stub.url)) as client:
        try:
            await client.post(stub.url, b"body", {})
        except (TryLater, Rejected) as error:
            return error
    return None


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (200, None),
        (204, None),
        (301, Denied),
        (400, Rejected),
        (401, Denied),
        (403, Denied),
        (404, Denied),
        (405, Denied),
        (407, Denied),
        (408, TryLater),
        (410, Denied),
        (413, TooLarge),
        (415, Rejected),
        (422, Rejected),
        (429, TryLater),
        (500, TryLater),
        (501, Rejected),
        (502, TryLater),
        (503, TryLater),
        (504, TryLater),
        (505, Rejected),
    ],
)
async def test_each_status(status: int, raised: type[Exception] | None):
    """A status means one thing to the outlet, and its text is told."""
    async with answering() as stub:
        stub.status = status
        stub.headers = {"Location": "/elsewhere"} if status == 301 else {}
        stub.text = b"because" if status != 204 else b""
        error = await outcome(stub)
    assert type(error) is (raised or type(None))
    if error:
        assert f"answers {status}: because" in str(error)
    if isinstance(error, TryLater):
        assert error.answered == (status >= 500)
    if isinstance(error, Rejected):
        assert error.atomic == (status in (400, 422))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 0), ("1000000000", 1e9), ("soon", None), ("-7", None), ("", None)],
)
async def test_retry_after_seconds(header: str, seconds: float | None):
    """Seconds are passed on as they are, rubbish as nothing: the outlet has its own bound."""
    async with answering() as stub:
        stub.status, stub.headers = 429, {"Retry-After": header}
        error = await outcome(stub)
    assert isinstance(error, TryLater)
    assert error.after_seconds == seconds


async def test_retry_after_date():
    """A date is as many seconds away as it is; one that has passed is now."""
    async with answering() as stub:
        stub.status = 503
        stub.headers = {"Retry-After": email.utils.formatdate(time.time() + 100, usegmt=True)}
        error = await outcome(stub)
    assert isinstance(error, TryLater)
    assert error.after_seconds is not None
    assert 50 < error.after_seconds <= 101
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("Wed, 99 Oct 2015 07:28:00 GMT") is None


async def test_answers_are_shown_harmlessly(tmp_path: Path):
    """Of an answer the log gets one short line, without control characters and own secrets."""
    secret = tmp_path / "token"
    secret.write_text("s3cret-token\n")
    async with (
        answering() as stub,
        http_client(Access(url=stub.url, token_file=str(secret))) as client,
    ):
        stub.status = 400
        stub.text = b"\x1b[31mno\n\0 s3cret-token \xff" + b"x" * 5000
        with pytest.raises(Rejected) as caught:
            await client.post(stub.url, b"", {})
    text = str(caught.value)
    assert text.isprintable()
    assert "s3cret" not in text
    assert len(text) < 400


async def test_credentials_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A token or password is what its file says now, and what it said while it is away."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    token = tmp_path / "token"
    token.write_text("old\n")
    async with answering() as stub:
        access = Access(url=stub.url, token_file="credential:token")
        clock = Hands()
        async with http_client(access, clock) as client:
            await client.post(stub.url, b"", {})
            token.unlink()
            clock.now += LOOK_SECONDS
            await client.post(stub.url, b"", {})
            token.write_text("new\n")
            clock.now += LOOK_SECONDS
            await client.post(stub.url, b"", {})
        access = Access(url=stub.url, username="me", password_file=str(token))
        async with http_client(access) as client:
            await client.post(stub.url, b"", {"X-Other": "1"})
    shown = [each.headers["Authorization"] for each in stub.requests]
    assert shown == ["Bearer old", "Bearer old", "Bearer new", "Basic bWU6bmV3"]


async def test_headers_from_files(tmp_path: Path):
    """A header whose value is a secret is what its file says, and no error shows it."""
    (tmp_path / "key").write_text("K3y-of-the-service")
    (tmp_path / "password").write_text("p4ss/word")
    async with answering() as stub:
        access = Access(
            url=f"{stub.url}/x?api_key=in-the-url",
            username="me",
            password_file=str(tmp_path / "password"),
            headers={"X-Tenant": "tenant-one"},
            header_files={"api-key": str(tmp_path / "key")},
        )
        async with http_client(access) as client:
            await client.post(access.url, b"", {})
            (received,) = stub.requests
            assert received.headers["api-key"] == "K3y-of-the-service"
            pair = received.headers["Authorization"].removeprefix("Basic ")
            stub.status = 400
            stub.text = f"{received.headers} p4ss%2Fword in-the-url {received.query}".encode()
            with pytest.raises(Rejected) as caught:
                await client.post(access.url, b"", {})
    shown = str(caught.value)
    assert "answers 400" in shown
    assert "(secret)" in shown
    for secret in ("K3y", "p4ss", "in-the-url", pair.rstrip("="), "tenant-one"):
        assert secret not in shown


async def test_through_a_proxy(tmp_path: Path):
    """With a proxy every request goes there, with the proxy's own password and nothing else."""
    (tmp_path / "password").write_text("open")
    async with answering() as proxy:
        access = Access(
            url="http://destination.invalid/write",
            proxy_url=proxy.url,
            proxy_username="agent",
            proxy_password_file=str(tmp_path / "password"),
        )
        async with http_client(access) as client:
            await client.post(access.url, b"body", {})
    (received,) = proxy.requests
    assert received.headers["Host"] == "destination.invalid"
    assert received.headers["Proxy-Authorization"] == "Basic YWdlbnQ6b3Blbg=="
    assert received.body == b"body"


async def test_tls_through_a_proxy(tmp_path: Path):
    """With TLS the proxy sees where to and its own password, and the destination all the rest."""
    files = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    (tmp_path / "password").write_text("open")
    heads: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        writer.close()

    async def proxied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        to, back = await asyncio.open_connection("127.0.0.1", stub.port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, back), pump(to, writer))

    async with answering(context) as stub, scripted(proxied) as proxy:
        access = Access(
            url=f"https://localhost:{stub.port}/write",
            ca_file=str(files[0]),
            proxy_url=proxy,
            proxy_username="agent",
            proxy_password_file=str(tmp_path / "password"),
        )
        async with http_client(access) as client:
            await client.post(access.url, b"body", {})
    (head,) = heads
    assert head.startswith(f"CONNECT localhost:{stub.port} HTTP/1.1\r\n".encode())
    assert b"\r\nProxy-Authorization: Basic YWdlbnQ6b3Blbg==\r\n" in head
    (received,) = stub.requests
    assert received.body == b"body"
    assert "Proxy-Authorization" not in received.headers


async def test_tokens_of_an_issuer(tmp_path: Path):
    """A token is asked for once and kept for its life, and asked for again once it is refused."""
    (tmp_path / "secret").write_text("s3:cret")
    clock = Hands()
    async with answering() as issuer, answering() as stub:
        issuer.status = 200
        access = Access(
            url=stub.url,
            oauth2_url=f"{issuer.url}/token",
            oauth2_client="my id",
            oauth2_secret_file=str(tmp_path / "secret"),
            oauth2_scopes=("write", "more"),
            oauth2_parameters={"audience": "metrics"},
        )

        async def shown(number: int) -> str:
            issuer.text = json.dumps({"access_token": f"t{number}", "expires_in": 100}).encode()
            stub.requests.clear()
            await client.post(stub.url, b"", {})
            return stub.requests[0].headers["Authorization"]

        async with http_client(access, clock) as client:
            assert await shown(1) == "Bearer t1"
            assert await shown(2) == "Bearer t1"
            clock.now += 91
            assert await shown(3) == "Bearer t3"
            stub.status = 401
            with pytest.raises(Denied):
                await client.post(stub.url, b"", {})
            stub.status = 204
            assert await shown(4) == "Bearer t4"
            clock.now += 91
            issuer.status, issuer.text = 400, b'{"error": "invalid_client s3%3Acret"}'
            with pytest.raises(TryLater, match=r"no token, but 400: .*invalid_client \(secret\)"):
                await client.post(stub.url, b"", {})
            await issuer.stop()
            with pytest.raises(TryLater, match="gives no token"):
                await client.post(stub.url, b"", {})
            await issuer.start()
    asked = issuer.requests[0]
    assert b64decode(asked.headers["Authorization"].removeprefix("Basic ")) == b"my+id:s3%3Acret"
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"],
        "audience": ["metrics"],
        "scope": ["write more"],
    }
    assert len(issuer.requests) == 3


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"headers": {"X-API-Key": "k"}}, "headers: X-API-Key is a secret, which belongs into"),
        ({"headers": {"Cookie": "k"}}, "headers: Cookie is a secret, which belongs into header_f"),
        ({"header_files": {"A B": "/f"}}, "headers: a name or a value is not fit"),
        ({"header_files": {"Authorization": "/f"}, "token_file": "/t"}, "header_files: Authoriz"),
        ({"oauth2_client": "me"}, "oauth2_client: needs oauth2_url"),
        ({"oauth2_url": "http://i/"}, "oauth2_url: needs oauth2_client and oauth2_secret_file"),
        ({"oauth2_url": "ftp://i/"}, "oauth2_url: must begin with http:// or https://"),
        ({"token_file": "/t", "oauth2_url": "http://i/"}, "token_file: only one of"),
        ({"proxy_url": "socks5://p"}, "proxy_url: must begin with http:// or https://"),
        ({"proxy_url": "http://a:b@p"}, "proxy_url: a user or password belongs into"),
        ({"proxy_username": "me"}, "proxy_username: needs proxy_url"),
        ({"proxy_url": "http://p", "proxy_username": "me"}, "proxy_password_file: goes together"),
    ],
)
def test_access_that_does_not_fit(options: dict[str, Any], fault: str):
    """Options that cannot work together are refused by their names."""
    with pytest.raises(ValueError, match=fault):
        Access(url="http://h", **options)


async def test_a_destination_that_is_away_is_told_in_few_words():
    """The place and the reason are said once, without what the library makes of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and never listens
        place = f"127.0.0.1:{free.getsockname()[1]}"
        async with http_client(Access(url=f"http://{place}")) as client:
            with pytest.raises(TryLater) as caught:
                await client.post(f"http://{place}", b"", {})
    assert str(caught.value) == f"{place}: Connection refused"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token_file": "/nowhere/token"}, "cannot read /nowhere/token: No such file"),
        ({"token_file": "credential:token"}, "no credential:token"),
        ({"token_file": "credential:../token"}, "no credential:"),
        ({"ca_file": "/nowhere/ca"}, "ca_file: cannot use /nowhere/ca"),
        ({"certificate_file": "/nowhere/crt"}, "certificate_file: cannot use /nowhere/crt"),
    ],
)
async def test_files_that_cannot_be_read(
    options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
):
    """What cannot be read is one sentence at the start."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(StartError, match=words):
        async with http_client(Access(url="https://localhost", **options)):
            pass


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://localhost"},
        {"url": "localhost:9090"},
        {"url": "http://"},
        {"url": "http://user:pass@localhost"},
        {"url": "http://localhost:port"},
        {"url": "http://local host"},
        {"url": "http://localhost", "username": "me"},
        {"url": "http://localhost", "password_file": "/x"},
        {"url": "https://localhost", "key_file": "/x"},
        {"url": "http://localhost", "ca_file": "/x"},
        {"url": "http://localhost", "token_file": "/x", "username": "me", "password_file": "/x"},
        {"url": "http://localhost", "headers": {"Authorization": "Bearer x"}},
        {"url": "http://localhost", "headers": {"X-A": "1\r\nX-B: 2"}},
        {"url": "http://localhost", "headers": {"X A": "1"}},
    ],
)
def test_options_that_are_wrong(options: dict[str, Any]):
    """A fault of the options is found without connecting, and does not repeat a password."""
    with pytest.raises(ValueError, match=r"^\w+: ") as caught:
        Access(**options)
    assert "pass@" not in str(caught.value)


async def heads(reader: asyncio.StreamReader) -> None:
    """Read the head of a request."""
    await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_server_that_never_answers(begin: bytes):
    """A half-open connection is given up with the attempt, and its descriptor with it."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while await reader.read(65536):
            asked.set()
        gone.set()

    async with scripted(script) as url, http_client(Access(url=url)) as client:
        posting = asyncio.ensure_future(client.post(url, b"x" * 100, {}))
        async with asyncio.timeout(100):
            await asked.wait()
            assert not posting.done()
            posting.cancel()
            await gone.wait()
            with pytest.raises(asyncio.CancelledError):
                await posting


async def test_a_server_that_hangs_up():
    """A connection that ends without an answer is for later."""

    async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await heads(reader)

    async with scripted(script) as url, http_client(Access(url=url)) as client:
        with pytest.raises(TryLater):
            await client.post(url, b"x", {})


async def test_an_answer_of_one_byte_a_second(monkeypatch: pytest.MonkeyPatch):
    """What was accepted is delivered, though the text of the answer never comes to its end."""
    monkeypatch.setattr("virtstatd.sending.http.BODY_SECONDS", 0.05)
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heads(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        while await reader.read(1):
            pass
        gone.set()

    async with scripted(script) as url, http_client(Access(url=url)) as client:
        async with asyncio.timeout(100):
            assert await client.post(url, b"", {}) == b"x"
            await gone.wait()


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
async def test_an_endless_answer(status: str):
    """Of an answer without end 64 KiB are read, compressed or not, and memory stays as it is."""
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await heads(reader)
        head = f"HTTP/1.1 {status}\r\nContent-Encoding: gzip\r\n\r\n"
        writer.write(head.encode())
        while True:
            writer.write(b"\x1f\x8b" * 32768)
            await writer.drain()
            sent += 65536

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with scripted(script) as url, http_client(Access(url=url)) as client:
        if status.startswith("2"):
            assert len(await client.post(url, b"", {})) == 65536
        else:
            with pytest.raises(Rejected) as caught:
                await client.post(url, b"", {})
            assert str(caught.value).isprintable()
    assert sent < 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # in KiB


async def test_a_bomb():
    """An answer that would grow when it is decompressed is not."""
    bomb = gzip.compress(bytes(64 << 20))
    async with answering() as stub, http_client(Access(url=stub.url)) as client:
        stub.status, stub.text, stub.headers = 200, bomb, {"Content-Encoding": "gzip"}
        assert await client.post(stub.url, b"", {}) == bomb[:65536]


def serving(paths: tuple[Path, Path]) -> ssl.SSLContext:
    """Return a server's context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    return context


async def test_tls(tmp_path: Path):
    """A certificate counts if it is trusted, of this host and in date; all else is for later."""
    good = certificate(tmp_path)
    async with answering(serving(good)) as stub:
        async with http_client(Access(url=stub.url, ca_file=str(good[0]))) as client:
            await client.post(stub.url, b"", {})
        async with http_client(Access(url=stub.url)) as client:
            with pytest.raises(TryLater, match="certificate verify failed"):
                await client.post(stub.url, b"", {})
    for bad, words in (
        (certificate(tmp_path, days=-1), "certificate has expired"),
        (certificate(tmp_path, host="elsewhere"), "not valid for 'localhost'"),
    ):
        async with (
            answering(serving(bad)) as stub,
            http_client(Access(url=stub.url, ca_file=str(bad[0]))) as client,
        ):
            with pytest.raises(TryLater, match=words):
                await client.post(stub.url, b"", {})
        assert not stub.requests


async def test_tls_with_a_client_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server that wants a certificate gets the one of the files, from systemd if so named."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    server, own = certificate(tmp_path), certificate(tmp_path, host="agent")
    context = serving(server)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(own[0])
    async with answering(context) as stub:
        access = Access(
            url=stub.url,
            ca_file=str(server[0]),
            certificate_file=str(own[0]),
            key_file=f"credential:{own[1].name}",
        )
        async with http_client(access) as client:
            await client.post(stub.url, b"", {})
        async with http_client(Access(url=stub.url, ca_file=str(server[0]))) as client:
            with pytest.raises(TryLater):
                await client.post(stub.url, b"", {})
    assert len(stub.requests) == 1
