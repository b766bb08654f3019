"""Requests as clients write them, in good and in bad faith."""

from http import HTTPStatus

import pytest

from virtstatd.serving.http import Refusal, Response, parse_request, status_and_headers


HOST = b"Host: a:1\r\n"


@pytest.mark.parametrize(
    ("head", "host", "path", "keep"),
    [
        (b"GET / HTTP/1.0\r\n", "", "/", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", "", "/", True),
        (b"GET /a?b=c HTTP/1.1\r\nHost: Hv1.example.:9766\r\n", "hv1.example", "/a", True),
        (b"GET /a HTTP/1.1\nhost:\t[::1]:9766 \n", "::1", "/a", True),
        (b"HEAD /a HTTP/1.1\r\nHost:\r\nConnection: close\r\n", "", "/a", False),
        (b"GET http://b:2/c HTTP/1.1\r\nHost: a\r\n", "b", "/c", True),
        (b"GET https://b HTTP/1.1\r\nHost: a\r\n", "b", "/", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n", "a", "/", True),
    ],
)
def test_requests(head: bytes, host: str, path: str, *, keep: bool):
    """The host that is asked for counts without its port, the path without its query."""
    request = parse_request(head)
    assert (request.host, request.path, request.keep) == (host, path, keep)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:b\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: ::1\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"no colon\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b": x\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A : x\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: 1\r\n folded\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: 1\rB: 2\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: \0\r\n", 400),
        (b"GET a HTTP/1.1\r\n" + HOST, 400),
        (b"GET / FTP/1.1\r\n" + HOST, 400),
        (b"GET /  HTTP/1.1\r\n" + HOST, 400),
        (b"GET / HTTP/2.0\r\n" + HOST, 505),
        (b"PUT / HTTP/1.1\r\n" + HOST, 405),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n", 413),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nContent-Length: 3\r\n", 413),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n", 413),
    ],
)
def test_what_is_no_plain_request_is_refused(head: bytes, status: int):
    """What two programs could read in two ways is refused, and so is every body."""
    with pytest.raises(Refusal) as caught:
        parse_request(head)
    assert caught.value.response.status == status


def test_every_response_has_the_headers_of_security():
    """No response may be framed, guessed at, stored or run; one may have its own policy."""
    plain = status_and_headers(Response((), 0), keep=True).decode()
    assert "X-Content-Type-Options: nosniff\r\n" in plain
    assert "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n" in plain
    assert "Cache-Control: no-store\r\n" in plain
    own = Response((), 0, headers={"Content-Security-Policy": "default-src 'self'"})
    text = status_and_headers(own, keep=False).decode()
    assert text.count("Content-Security-Policy") == 1
    assert text.startswith(f"HTTP/1.1 {HTTPStatus.OK.value} OK\r\n")
