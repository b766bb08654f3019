"""Requests and responses of HTTP/1.1, as far as a listener that only shows something needs them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus


SECURITY: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Headers of every response, unless it has others of that name."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s]*)(:[0-9]*)?")


@dataclass(frozen=True, slots=True)
class Request:
    """
    A request without a body; names of headers are in lower case.

    `host` is the name in the request, without a port. `peer` is the client's address, and `names`
    are those of its certificate, empty where it has shown none.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    keep: bool
    host: str = ""
    query: str = ""
    peer: str = ""
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Response:
    """
    An answer, whose body is taken piece by piece as the client reads.

    One without a length is a stream of events, which comes as it is made and ends the connection.
    """

    body: Iterable[bytes] | AsyncGenerator[bytes, None]
    length: int | None
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Respond = Callable[[Request], Awaitable[Response]]


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of ours
    """An error response that ends the connection."""

    def __init__(self, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status.phrase)
        self.response = text_response(status.phrase, status, headers)


def text_response(
    line: str, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response of one line of text."""
    body = f"{line}\n".encode()
    return Response((body,), len(body), status=status, headers=headers or {})


def parse_request(head: bytes, peer: str = "", names: frozenset[str] = frozenset()) -> Request:
    """
    Read the first line and the headers; raise Refusal on what is not plain HTTP/1.

    Lines may end with LF alone (RFC 9112, section 2.2).
    """
    text = head.decode("latin-1").replace("\r\n", "\n")
    if "\r" in text or "\0" in text:
        raise Refusal(HTTPStatus.BAD_REQUEST)
    first, *lines = text.rstrip("\n").split("\n")
    try:
        method, target, version = first.split(" ")
    except ValueError:
        raise Refusal(HTTPStatus.BAD_REQUEST) from None
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        known = version.startswith("HTTP/")
        raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if known else HTTPStatus.BAD_REQUEST)
    if method not in ("GET", "HEAD"):
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
    headers = _headers(lines)
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    authority = headers.get("host")
    if target.startswith(("http://", "https://")):  # the form for proxies, section 3.2.2
        authority, _, target = target.partition("://")[2].partition("/")
        target = f"/{target}"
    if not target.startswith("/") or ("host" not in headers and version == "HTTP/1.1"):
        raise Refusal(HTTPStatus.BAD_REQUEST)
    path, _, query = target.partition("?")
    wish = headers.get("connection", "").lower()
    keep = wish != "close" if version == "HTTP/1.1" else wish == "keep-alive"
    return Request(method, path, headers, keep, _host(authority), query, peer, names)


def _headers(lines: Iterable[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            raise Refusal(HTTPStatus.BAD_REQUEST)
        name, value = name.lower(), value.strip(" \t")
        if name == "host" and name in headers:  # section 3.2
            raise Refusal(HTTPStatus.BAD_REQUEST)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _host(authority: str | None) -> str:
    if authority is None:
        return ""
    found = _HOST.fullmatch(authority)
    if not found:
        raise Refusal(HTTPStatus.BAD_REQUEST)
    return found["name"].strip("[]").rstrip(".").lower()


def status_and_headers(response: Response, *, keep: bool) -> bytes:
    """Return what stands before a response's body."""
    lines = {
        "Date": formatdate(usegmt=True),
        "Content-Type": response.content_type,
        **({} if response.length is None else {"Content-Length": str(response.length)}),
        "Connection": "keep-alive" if keep else "close",
        **SECURITY,
        **response.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n{head}\r\n".encode()
