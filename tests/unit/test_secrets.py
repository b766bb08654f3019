"""Secrets come from files, and TLS checks who is there."""

import asyncio
import ssl
from pathlib import Path

import pytest

from certificates import certificate
from virtstatd.errors import StartError, TryLater
from virtstatd.sinks.graphite import Graphite
from virtstatd.sinks.secrets import path_of, secret, tls_context
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
        tls_context(tls=True, ca_file=str(path))
    with pytest.raises(StartError, match="certificate_file: cannot use"):
        tls_context(tls=True, certificate_file=str(path))


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
    received = asyncio.Event()
    shown = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():
            shown.append(writer.get_extra_info("peercert")["subject"][0][0][1])
            received.set()
        writer.transport.abort()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client[0])
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*files)
    server = await asyncio.start_server(take, "localhost", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    sink = Graphite(
        address=f"localhost:{port}",
        tls=True,
        ca_file=str(files[0]) if ours else "",
        certificate_file=str(client[0]),
        key_file=str(client[1]),
    )
    async with server, sink.open(opening()) as send:
        if reason is None:
            await send(make_batch(1))
            await received.wait()
            assert shown == ["client"]
        else:
            with pytest.raises(TryLater, match=reason):
                await send(make_batch(1))
            assert not shown
