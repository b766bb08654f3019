"""Asking a running agent."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from support.api_stub import api_stub
from virtstatd.commands.api import (
    AgentApi,
    ApiError,
    Endpoint,
    Unreachable,
    basic,
    bearer,
    configured,
    url_of_host,
)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:9766"),
        ("[web]\nlisten_address = ':9000'", "http://127.0.0.1:9000"),
        ("[web]\nlisten_address = '[::]:9000'", "http://[::1]:9000"),
        ("[[sink]]\ntype = 'null'\n[[sink]]\nlisten_address = '[::1]:1'", "http://[::1]:1"),
        ("[web]\nlisten_address = 'h:2'\n[[sink]]\nlisten_address = 'h:1'", "http://h:2"),
        ("[web]\ncertificate_file = '/c'\nkey_file = '/k'", "https://127.0.0.1:9766"),
        ("[web\nnot TOML", "http://127.0.0.1:9766"),
        ("web = 1\nsink = [1]", "http://127.0.0.1:9766"),
    ],
)
def test_the_address_is_that_of_the_configuration(tmp_path: Path, text: str, url: str):
    """Where the agent listens is read from its file, also from one with an error elsewhere."""
    file = tmp_path / "virtstatd.toml"
    file.write_text(text)

    assert configured(file).url == url
    assert configured(tmp_path / "none").url == "http://127.0.0.1:9766"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("hyper1", "http://hyper1:9766"),
        ("hyper1:80", "http://hyper1:80"),
        ("::1", "http://[::1]:9766"),
        ("[::1]:80", "http://[::1]:80"),
    ],
)
def test_another_host_is_named_with_or_without_a_port(host: str, url: str):
    """The port is the agent's own unless another is given."""
    assert url_of_host(host) == url


def test_documents_come_over_one_connection():
    """Queries are passed on without what is empty, and a login is sent each time."""
    with api_stub() as stub:
        api = AgentApi(Endpoint(stub.url, authorization=basic("ann", "x")))
        try:
            assert api.document("host")["host"] == "hyper1"
            window = api.document("guests", sort="-name", filter="", offset=1, limit=1)
        finally:
            api.close()
    assert [each["name"] for each in window["guests"]] == ["guest-0001"]
    path, query, headers = stub.asked[1]
    assert (path, query) == ("guests", {"sort": "-name", "offset": "1", "limit": "1"})
    assert headers["Authorization"] == "Basic YW5uOng="
    assert bearer("token\n") == "Bearer token"


def test_what_did_not_change_is_kept():
    """A document with a tag is asked for with it, and taken from before where it is the same."""
    with api_stub() as stub:
        stub.tag = '"1"'
        api = AgentApi(Endpoint(stub.url))
        try:
            first = api.document("guests", sort="name")
            again = api.document("guests", sort="name")
            other = api.document("guests", sort="-name")
        finally:
            api.close()
    assert again is first
    assert other is not first
    sent = [headers.get("If-None-Match") for _, _, headers in stub.asked]
    assert sent == [None, '"1"', None]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, "Log in.", "wants a login: --user NAME or --token-file FILE"),
        (403, "Not shown here: other machines reach it.", "Not shown here"),
        (400, '{"error": "no column is called x"}', ": no column is called x"),
        (404, "Not here; see /metrics", "has no API: it is older than this command"),
        (503, "", ": 503"),
        (200, "<html>", "answers, but not as virtstatd does"),
        (200, "[]", "answers, but not as virtstatd does"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, body: str, said: str):
    """What an agent, or something else at its port, answers becomes one sentence."""
    with api_stub() as stub:
        stub.answer = (status, body)
        api = AgentApi(Endpoint(stub.url))
        with pytest.raises(ApiError, match=r".") as raised:
            api.document("host")
        api.close()
    assert said in str(raised.value)


def test_no_agent_is_one_sentence():
    """Where nothing listens the reason and the fix are reported."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        api = AgentApi(Endpoint(f"http://127.0.0.1:{sock.getsockname()[1]}"))
        with pytest.raises(Unreachable, match=r"Connection refused; start it with `systemctl"):
            api.document("host")
    with pytest.raises(ApiError, match=r"ftp://x is no address"):
        AgentApi(Endpoint("ftp://x"))


def test_an_agent_that_was_restarted_is_asked_again():
    """A connection that has ended is opened again, without a fault."""
    with api_stub() as stub:
        api = AgentApi(Endpoint(stub.url))
        api.document("host")
        assert api._connection is not None
        assert api._connection.sock is not None
        api._connection.sock.shutdown(socket.SHUT_RDWR)
        assert api.document("host")["host"] == "hyper1"
        api.close()


def test_a_unix_socket_is_asked(tmp_path: Path):
    """An agent that systemd has listen at a UNIX socket is reached there."""
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"version":  1}')

        thread = threading.Thread(target=serve)
        thread.start()
        api = AgentApi(Endpoint(f"unix:{path}"))
        try:
            assert api.document("host") == {"version": 1}
        finally:
            api.close()
            thread.join(10)
    gone = AgentApi(Endpoint(f"unix:{tmp_path}/none"))
    with pytest.raises(Unreachable, match="No such file"):
        gone.document("host")
