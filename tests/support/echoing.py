"""Receivers that say back whatever they were shown: secrets above all, in every answer."""

from __future__ import annotations

import json
import re
import socketserver
import ssl
import threading
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


STATUSES = (400, 204, 500, 401)
"""The answers to the requests of one sink, in turn."""

INFO = {
    "server_id": "echo",
    "version": "2.10.0",
    "proto": 1,
    "host": "127.0.0.1",
    "port": 4222,
    "headers": True,
    "auth_required": True,
    "nonce": "nonce",
    "max_payload": 1 << 20,
}


class Echoes:
    """What all receivers of a test heard, and how often each sink was answered."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.answered: Counter[str] = Counter()
        self.issued = ""
        """The token that the issuer gives out."""

    def hear(self, text: bytes) -> None:
        """Keep what was heard; a login of HTTP also in clear."""
        self.heard += text
        for coded in re.findall(rb"Basic ([A-Za-z0-9+/=]+)", text):
            with suppress(ValueError):
                self.heard += b64decode(coded)


class _Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    echoes: Echoes

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = f"{self.path}\n{self.headers}".encode() + body[:300]
        self.echoes.hear(said)
        for coded in re.findall(rb"Basic ([A-Za-z0-9+/=]+)", said):
            said += b64decode(coded)
        turn = self.echoes.answered[self.path]
        self.echoes.answered[self.path] += 1
        status = STATUSES[turn % len(STATUSES)]
        if "/issuer/" in self.path and status != STATUSES[0]:
            status = 200
            said = json.dumps({"access_token": self.echoes.issued, "expires_in": 1}).encode()
        self.send_response(status, said.decode("latin-1")[:80].replace("\n", " "))
        if status >= 400:
            self.send_header("WWW-Authenticate", str(self.headers.get("Authorization", "")))
        self.end_headers()
        if status != 204:
            self.wfile.write(said)


class _Lines(socketserver.StreamRequestHandler):
    """A server of NATS that quotes the client's words in its error."""

    echoes: Echoes

    def handle(self) -> None:
        self.wfile.write(f"INFO {json.dumps(INFO)}\r\n".encode())
        for line in self.rfile:
            self.echoes.hear(line)
            if line.startswith(b"CONNECT"):
                self.wfile.write(b"-ERR 'Authorization Violation: %s'\r\n" % line.strip())
                return


class _Packets(socketserver.StreamRequestHandler):
    """A broker of MQTT 5 that gives the client's packet as its reason."""

    echoes: Echoes

    def handle(self) -> None:
        said = self.request.recv(4096)
        self.echoes.hear(said)
        reason = "".join(chr(each) for each in said if 32 <= each < 127).encode()[:100]
        properties = b"\x1f" + len(reason).to_bytes(2) + reason
        answer = b"\x00\x87" + bytes([len(properties)]) + properties
        self.wfile.write(b"\x20" + bytes([len(answer)]) + answer)


class _Rows(socketserver.StreamRequestHandler):
    """A server of PostgreSQL that asks for the password in clear, and quotes it."""

    echoes: Echoes

    def handle(self) -> None:
        size = int.from_bytes(self.rfile.read(4))
        self.rfile.read(max(0, size - 4))
        if size == 8:  # a request for TLS
            self.wfile.write(b"N")
            self.handle()
            return
        self.wfile.write(b"R\x00\x00\x00\x08\x00\x00\x00\x03")
        self.rfile.read(1)
        said = self.rfile.read(int.from_bytes(self.rfile.read(4)) - 4).rstrip(b"\0")
        self.echoes.hear(said)
        fields = b"SFATAL\0VFATAL\0C28P01\0M" + said + b"\0D" + said + b"\0\0"
        self.wfile.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)


class _Bytes(socketserver.StreamRequestHandler):
    """A server of anything."""

    echoes: Echoes

    def handle(self) -> None:
        said = self.request.recv(4096)
        self.echoes.hear(said)
        self.wfile.write(said)


KINDS: dict[str, type[socketserver.BaseRequestHandler]] = {
    "http": _Http,
    "https": _Http,
    "nats": _Lines,
    "mqtt": _Packets,
    "postgres": _Rows,
    "bytes": _Bytes,
}


class _Server(ThreadingHTTPServer):
    """Any server, which says nothing of clients that leave."""

    daemon_threads = True

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def echoing(certificate: tuple[Path, Path]) -> Iterator[tuple[Echoes, dict[str, int]]]:
    """Run a receiver of each kind; yield what they hear, and their ports."""
    echoes = Echoes()
    with ExitStack() as stack:
        ports = {}
        for name, kind in KINDS.items():
            handler = type(name, (kind,), {"echoes": echoes})
            server = stack.enter_context(_Server(("127.0.0.1", 0), handler))
            if name == "https":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate)
                server.socket = context.wrap_socket(
                    server.socket, server_side=True, do_handshake_on_connect=False
                )
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
            ports[name] = server.server_address[1]
        yield echoes, ports
