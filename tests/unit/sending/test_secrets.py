"""Secrets come from files, and TLS checks who is there."""

import asyncio
import os
import shutil
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.certificates import certificate
from support.clock import Hands
from virtstatd.config.options import options
from virtstatd.config.plugins import SINKS
from virtstatd.errors import StartError, TryLater
from virtstatd.sending.paths import path_of
from virtstatd.sending.redacted import redacted
from virtstatd.sending.secrets import Secret, opened_secret, secret
from virtstatd.sending.tls import Context, TlsFiles
from virtstatd.sending.watched import LOOK_SECONDS, Watched
from virtstatd.sink import Sink
from virtstatd.sinks.graphite import Graphite
from virtstatd.testing import make_batch
from virtstatd.testing.contract import opening


def test_a_secret_is_the_line_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A secret is read from a path or from what systemd handed over; none is the empty text."""
    (tmp_path / "password").write_text("t0p secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert secret(str(tmp_path / "password")) == "t0p secret"
    assert secret("credential:password") == "t0p secret"
    assert secret("") == ""


@pytest.mark.parametrize("name", ["../password", "", ".", "..", "a/b", "a b"])
def test_a_credential_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    """The name of a credential cannot lead out of their directory."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(StartError, match="LoadCredential="):
        path_of(f"credential:{name}")


def test_without_systemd_there_are_no_credentials(monkeypatch: pytest.MonkeyPatch):
    """Outside of a unit a credential is missing, and the message says what would give it."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(StartError, match="LoadCredential="):
        secret("credential:password")


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb", b"\xff", b"x" * 5000, b"a\0b"])
def test_what_is_no_secret(tmp_path: Path, content: bytes):
    """A file without one line of text is told by its name, and its text is not shown."""
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(StartError) as caught:
        secret(str(path))
    assert str(path) in str(caught.value)
    assert "xxx" not in str(caught.value)
    with pytest.raises(StartError, match="No such file"):
        secret(str(tmp_path / "nowhere"))


def test_files_that_tls_cannot_use(tmp_path: Path):
    """A certificate that is none is told at the start, with the name of the option."""
    path = tmp_path / "file"
    path.write_text("no certificate")
    with pytest.raises(StartError, match="ca_file: cannot use"):
        TlsFiles(ca_file=str(path)).check_tls_files(tls=True)
    with pytest.raises(StartError, match="certificate_file: cannot use"):
        TlsFiles(certificate_file=str(path)).check_tls_files(tls=True)


@pytest.mark.parametrize(
    ("host", "ours", "reason"),
    [
        ("localhost", True, None),
        ("localhost", False, "certificate verify failed"),
        ("elsewhere", True, "Hostname mismatch"),
    ],
)
async def test_who_is_sent_to(tmp_path: Path, host: str, ours: bool, reason: str | None):
    """Through TLS lines go to a server with the right certificate and name, and to no other."""
    files = certificate(tmp_path, host)
    client = certificate(tmp_path, "client")
    async with taking(files, client[0]) as (port, shown):
        sink = Graphite(
            address=f"localhost:{port}",
            tls=True,
            ca_file=str(files[0]) if ours else "",
            certificate_file=str(client[0]),
            key_file=str(client[1]),
        )
        async with sink.open(opening()) as send:
            if reason is None:
                await send(make_batch(1))
                assert await shown.get() == "client"
            else:
                with pytest.raises(TryLater, match=reason):
                    await send(make_batch(1))
                assert shown.empty()


async def test_a_server_by_another_name(tmp_path: Path):
    """`server_name` is what the certificate must say, whatever the address is."""
    files = certificate(tmp_path, "elsewhere")
    async with taking(files, files[0]) as (port, shown):
        for name, right in (("elsewhere", True), ("localhost", False)):
            sink = Graphite(
                address=f"127.0.0.1:{port}",
                tls=True,
                ca_file=str(files[0]),
                certificate_file=str(files[0]),
                key_file=str(files[1]),
                server_name=name,
            )
            async with sink.open(opening()) as send:
                if right:
                    await send(make_batch(1))
                    assert await shown.get() == "elsewhere"
                else:
                    with pytest.raises(TryLater, match="Hostname mismatch"):
                        await send(make_batch(1))


async def test_certificates_that_are_replaced(tmp_path: Path):
    """The next connection uses new files, all of them, and the old ones until they fit again."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    old, new = certificate(tmp_path, "old"), certificate(tmp_path, "new")
    old_server, new_server = certificate(here), certificate(there)
    crt, key, ca = (tmp_path / name for name in ("agent.crt", "agent.key", "ca.crt"))
    for source, target in ((old[0], crt), (old[1], key), (old_server[0], ca)):
        shutil.copy(source, target)
    async with (
        taking(old_server, old[0]) as (before, shown_before),
        taking(new_server, new[0]) as (after, shown_after),
    ):
        files = TlsFiles(ca_file=str(ca), certificate_file=str(crt), key_file=str(key))
        clock = Hands()
        context = await files.opened_tls(tls=True, clock=clock)
        assert await line_to(before, context, clock, shown_before) == "old"
        shutil.copy(new[0], crt)  # without its key yet
        assert await line_to(before, context, clock, shown_before) == "old"
        key.unlink()
        assert await line_to(before, context, clock, shown_before) == "old"
        shutil.copy(new[1], key)
        shutil.copy(new_server[0], ca)
        assert await line_to(after, context, clock, shown_after) == "new"
        with pytest.raises(ssl.SSLCertVerificationError):
            await line_to(before, context, clock, shown_before)


async def line_to(
    port: int, context: Context | None, clock: Hands, shown: asyncio.Queue[str]
) -> str | None:
    """Send a line over a connection a second later; return whose certificate the server saw."""
    assert context
    clock.now += LOOK_SECONDS
    await context.renewed()
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    writer.write(b"line\n")
    name = await shown.get()
    writer.transport.abort()
    return name


@asynccontextmanager
async def taking(
    files: tuple[Path, Path], client: Path
) -> AsyncIterator[tuple[int, asyncio.Queue[str]]]:
    """Run a server that wants a certificate; yield its port, and who has sent a line."""
    shown: asyncio.Queue[str] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():
            shown.put_nowait(writer.get_extra_info("peercert")["subject"][0][0][1])
        writer.transport.abort()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*files)
    server = await asyncio.start_server(take, "localhost", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], shown


async def test_secrets_that_are_replaced(tmp_path: Path):
    """A secret is what its file says when it is needed, or what it said before it was bad."""
    path = tmp_path / "password"
    path.write_text("old")
    clock = Hands()
    found = Secret(str(path), clock)
    assert await found.first() == "old"
    for content, wanted in (("two\nlines", "old"), ("new", "new"), ("", "new"), ("last", "last")):
        path.write_text(content)
        clock.now += LOOK_SECONDS
        assert await found.read() == wanted
    assert found.hidden("new and last") == "(secret) and (secret)"
    assert await (await opened_secret("")).read() == ""


async def test_a_secret_is_read_once_a_second_and_when_it_changed(tmp_path: Path):
    """Many requests cost one look at the file in a second, and reading only where it changed."""
    path = tmp_path / "password"
    path.write_text("old")
    clock, made = Hands(), list[float]()
    watched = Watched((str(path),), lambda: made.append(clock.now), clock)
    await watched.first()
    for second in range(3):
        clock.now = second * LOOK_SECONDS
        if second == 2:
            path.write_text("other")
        for _ in range(10):
            await watched.get()
    assert made == [0.0, 2 * LOOK_SECONDS]


async def test_a_file_that_does_not_answer_stops_nothing(tmp_path: Path):
    """While a file hangs the secret read last is used, and the loop goes on; then it is read."""
    path = tmp_path / "password"
    path.write_text("old")
    clock = Hands()
    found = Secret(str(path), clock)
    assert await found.first() == "old"
    path.unlink()
    os.mkfifo(path)
    clock.now += LOOK_SECONDS
    reading = asyncio.ensure_future(found.read())
    await asyncio.sleep(0)
    assert not reading.done()  # on its thread: this test would not be here otherwise
    assert await reading == "old"
    assert await found.read() == "old"  # at once: nobody waits for the same look twice
    with path.open("wb") as pipe:
        pipe.write(b"new")
    async with asyncio.timeout(100):
        while await found.read() != "new":
            clock.now += LOOK_SECONDS
            await asyncio.sleep(0.01)


async def test_a_file_that_does_not_answer_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A sink whose secret cannot be read in time does not start, and names the file."""
    path = tmp_path / "password"
    os.mkfifo(path)
    monkeypatch.setattr("virtstatd.sending.watched.FIRST_SECONDS", 0.05)
    with pytest.raises(StartError, match=f"cannot read {path}: no answer"):
        await opened_secret(str(path))
    path.open("wb").close()  # so that the thread ends


@pytest.mark.parametrize(
    "form",
    [
        'a/b" +%ü&x',
        "a%2Fb%22%20%2B%25%C3%BC%26x",
        "a%2fb%22%20%2b%25%c3%bc%26x",
        "a/b%22%20%2B%25%C3%BC%26x",
        "a%2Fb%22+%2B%25%C3%BC%26x",
        'a/b\\" +%\\u00fc&x',
        'a\\/b\\" +%\\u00fc&x',
        "a/b&quot; +%ü&amp;x",
        b64encode(b'a/b" +%\xc3\xbc&x').decode(),
        repr({"key": 'a/b" +%ü&x'})[9:-2],
    ],
)
def test_every_form_of_a_secret_is_hidden(form: str):
    """A secret is hidden as it is, percent-encoded, quoted and in base64."""
    text = redacted(f"before {form} after", ['a/b" +%ü&x', ""])
    assert text.rstrip("=") in ("before (secret) after", "before (secret)= after")


@pytest.mark.parametrize(
    ("type_name", "address"),
    [
        ("remote_write", {"url": "https://h"}),
        ("otlp", {"url": "https://h"}),
        ("influx", {"url": "https://h"}),
        ("graphite", {"tls": True}),
        ("kafka", {"tls": True}),
        ("mqtt", {"tls": True}),
        ("nats", {"tls": True}),
        ("postgres", {"tls": True}),
    ],
)
def test_tls_is_the_same_everywhere(type_name: str, address: dict[str, Any]):
    """Every sink that encrypts has the same options, described alike, and the same faults."""
    found_type = SINKS.find(type_name)
    sink: Callable[..., Sink] = found_type
    wanted = {each.name: each.description for each in options(TlsFiles)}
    found = {each.name: each.description for each in options(found_type)}
    assert wanted.items() <= found.items()
    sink(**address, **dict.fromkeys(wanted, "x"))
    for option in wanted:
        with pytest.raises(ValueError, match=f"^{option}: needs tls"):
            sink(**{option: "x"})
    with pytest.raises(ValueError, match=r"^key_file: needs certificate_file"):
        sink(**address, key_file="x")


@pytest.mark.parametrize("name", ["kafka", "postgres"])
async def test_libraries_take_what_tls_is_made_of(tmp_path: Path, name: str):
    """Kafka's and PostgreSQL's libraries show our certificate to a server by another name."""
    files, ours = certificate(tmp_path, "elsewhere"), certificate(tmp_path, "agent")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours[0])
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*files)
    shown: asyncio.Queue[str] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if name == "postgres":
            await reader.readexactly(8)  # asks for TLS
            writer.write(b"S")
            await writer.start_tls(context)
        shown.put_nowait(writer.get_extra_info("peercert")["subject"][0][0][1])
        writer.transport.abort()

    early = context if name == "kafka" else None
    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=early)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    where: dict[str, dict[str, Any]] = {
        "kafka": {"brokers": (address,)},
        "postgres": {"url": f"postgresql://a@{address}/b"},
    }
    options = {
        "tls": True,
        "ca_file": str(files[0]),
        "certificate_file": str(ours[0]),
        "key_file": str(ours[1]),
        "server_name": "elsewhere",
    }
    async with server, SINKS.find(name)(**where[name], **options).open(opening()) as send:
        with pytest.raises(TryLater):  # nobody answers
            await send(make_batch(1))
        assert await shown.get() == "agent"
