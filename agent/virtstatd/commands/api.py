"""A running agent's API, asked over a connection that stays open."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit


DEFAULT_PORT: Final = 9766
SECONDS: Final = 5.0
"""How long an answer may take."""

MAX_BYTES: Final = 64 << 20
UNIX: Final = "unix:"
START: Final = "start it with `systemctl start virtstatd`"


class ApiError(Exception):
    """There is no answer; the message says why and what to do."""


class Unreachable(ApiError):  # noqa: N818 - a state of the agent
    """Nothing answers at the address."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    Where an agent listens, and who asks.

    `ca_file` is the authority of its certificate; `pinned` means that the file is that certificate
    itself, whatever name it has. `authorization` is the header's value, empty without a login.
    """

    url: str
    authorization: str = ""
    ca_file: str = ""
    pinned: bool = False
    certificate_file: str = ""
    key_file: str = ""


def basic(user: str, password: str) -> str:
    """Return the header of a user with a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def bearer(token: str) -> str:
    """Return the header of a token."""
    return f"Bearer {token.strip()}"


def url_of_host(host: str) -> str:
    """Return the address of the agent of another host, given as NAME or NAME:PORT."""
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and not name.endswith(":"):
        return f"http://{host}"
    return f"http://[{host}]:{DEFAULT_PORT}" if ":" in host else f"http://{host}:{DEFAULT_PORT}"


def configured(file: Path) -> Endpoint:
    """
    Return where the agent of a configuration file listens.

    The file is read for that alone: an error in it, or a library that is not installed, hides no
    running agent. Without a readable file it is the default address.
    """
    document: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    web = document.get("web")
    web = web if isinstance(web, dict) else {}
    sinks = document.get("sink")
    addresses = [
        web.get("listen_address"),
        *(each.get("listen_address") for each in sinks or () if isinstance(each, dict)),
    ]
    address = next((each for each in addresses if each and isinstance(each, str)), "")
    host, _, port = (address or f"127.0.0.1:{DEFAULT_PORT}").rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104
    certificate = web.get("certificate_file")
    if isinstance(certificate, str) and certificate:
        return Endpoint(f"https://{host}:{port}", ca_file=certificate, pinned=True)
    return Endpoint(f"http://{host}:{port}")


class AgentApi:
    """Asks one agent, one document after another; used by one thread."""

    def __init__(self, endpoint: Endpoint, seconds: float = SECONDS) -> None:
        parts = urlsplit(endpoint.url)
        if parts.scheme not in ("http", "https") and not endpoint.url.startswith(UNIX):
            raise ApiError(f"{endpoint.url} is no address: use http://, https:// or unix:/path")
        self.where = endpoint.url
        self._endpoint = endpoint
        self._seconds = seconds
        self._parts = parts
        self._connection: http.client.HTTPConnection | None = None
        self._kept: dict[str, tuple[str, dict[str, Any]]] = {}

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def opened(
        self, path: str, seconds: float, **query: object
    ) -> tuple[socket.socket, http.client.HTTPResponse]:
        """
        Return an answer that is still to be read, and its connection, which is its own.

        `seconds` is how long it may be silent. Raises ApiError.
        """
        connection = self._connected(seconds)
        try:
            connection.request("GET", _target(path, query), headers=self._headers())
            sock = connection.sock
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                body = answer.read(MAX_BYTES)
                connection.close()
                raise ApiError(self._refused(answer.status, body))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self.unreachable(error) from error
        return sock, answer

    def document(self, path: str, **query: object) -> dict[str, Any]:
        """Return a document of the API; raises ApiError."""
        target = _target(path, query)
        etag, kept = self._kept.get(path, ("", {}))
        headers = self._headers()
        if etag.startswith(target):
            headers["If-None-Match"] = etag.removeprefix(target)
        status, tag, body = self._asked(target, headers)
        if status == http.HTTPStatus.NOT_MODIFIED:
            return kept
        if status != http.HTTPStatus.OK:
            raise ApiError(self._refused(status, body))
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ApiError(f"{self.where} answers, but not as virtstatd does")
        self._kept[path] = (target + tag if tag else "", document)
        return document

    def _asked(self, target: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
        """Ask, once more where a connection that was kept has ended."""
        for fresh in (self._connection is None, True):
            try:
                connection = self._connection = self._connection or self._connected(self._seconds)
                connection.request("GET", target, headers=headers)
                answer = connection.getresponse()
                body = answer.read(MAX_BYTES)
                if answer.will_close:
                    self.close()
                return answer.status, answer.headers.get("ETag") or "", body
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if fresh:
                    raise self.unreachable(error) from error
        raise AssertionError  # the second time is always a fresh one

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if self._endpoint.authorization:
            headers["Authorization"] = self._endpoint.authorization
        return headers

    def _connected(self, seconds: float) -> http.client.HTTPConnection:
        if self.where.startswith(UNIX):
            return UnixConnection(self.where.removeprefix(UNIX), seconds)
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port or 80, timeout=seconds)
        return http.client.HTTPSConnection(host, port or 443, timeout=seconds, context=self._tls())

    def _tls(self) -> ssl.SSLContext:
        endpoint = self._endpoint
        context = ssl.create_default_context(cafile=endpoint.ca_file or None)
        if endpoint.pinned:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if endpoint.certificate_file:
            context.load_cert_chain(endpoint.certificate_file, endpoint.key_file or None)
        return context

    def unreachable(self, error: Exception) -> Unreachable:
        """Return what an error of a connection means."""
        if isinstance(error, ssl.SSLCertVerificationError):
            advice = "name its authority with --ca-file"
            return Unreachable(f"{self.where}: {error.verify_message}; {advice}")
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unreachable(f"no agent answers at {self.where}: {reason}; {START}")

    def _refused(self, status: int, body: bytes) -> str:
        text = body[:1000].decode("utf-8", "replace").strip()
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            text = str(json.loads(text).get("error") or text)
        match status:
            case http.HTTPStatus.UNAUTHORIZED:
                return f"{self.where} wants a login: --user NAME or --token-file FILE"
            case http.HTTPStatus.NOT_FOUND if "/" in text and "see " in text:
                return f"the agent at {self.where} has no API: it is older than this command"
        return f"{self.where}: {text or status}"


def _target(path: str, query: Mapping[str, object]) -> str:
    asked = urlencode({key: value for key, value in query.items() if value not in ("", None)})
    return f"/api/v1/{quote(path)}" + (f"?{asked}" if asked else "")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket in place of a host."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock
