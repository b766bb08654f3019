"""An agent's API as `top` and `status` meet it: made-up guests, and whatever goes wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from support import documents


class ApiStub(ThreadingHTTPServer):
    """Serves the documents of some guests; `asked` has every path and query."""

    daemon_threads = True

    def __init__(self, rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rows, self.found = rows, found
        self.agent = documents.agent()
        self.up = True
        self.answer: tuple[int, str] | None = None
        self.tag = ""
        self.ended = threading.Event()
        self.live = True
        """Whether there is a live stream."""

        self.beat = 0.1
        """Seconds between its events."""

        self.asked: list[tuple[str, dict[str, str], dict[str, str]]] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def document(self, path: str, query: dict[str, str]) -> dict[str, Any] | None:
        """Return a document, None if there is none."""
        counts = [each["severity"] for each in self.found]
        critical, warning = counts.count("critical"), counts.count("warning")
        match path.split("/"):
            case ["host"]:
                return documents.host(len(self.rows), critical, warning, up=self.up)
            case ["findings"]:
                return documents.findings(*self.found)
            case ["agent"]:
                return self.agent
            case ["guests"]:
                return self._guests(query)
            case ["guests", uuid]:
                row = next((each for each in self.rows if each["uuid"] == uuid), None)
                mine = [each for each in self.found if (each["guest"] or {}).get("uuid") == uuid]
                return row and documents.guest(row, *mine)
        return None

    def _guests(self, query: dict[str, str]) -> dict[str, Any]:
        rows = [each for each in self.rows if query.get("filter", "") in each["name"]]
        if sort := query.get("sort"):
            key = sort.removeprefix("-")
            rows.sort(key=lambda each: each[key], reverse=sort.startswith("-"))
        first = int(query.get("offset", 0))
        shown = rows[first : first + int(query.get("limit", len(rows)))]
        return {**documents.guests(shown, len(self.rows)), "matched": len(rows)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ApiStub

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        path = parts.path.removeprefix("/api/v1/")
        self.server.asked.append((path, query, dict(self.headers)))
        if path == "live" and self.server.live and self.server.answer is None:
            self._stream(query)
            return
        document = self.server.document(path, query)
        status, text = 200, json.dumps(document)
        if self.server.answer is not None:
            status, text = self.server.answer
        elif document is None:
            status, text = 404, json.dumps({"error": "no guest has that UUID"})
        elif self.server.tag and self.headers.get("If-None-Match") == self.server.tag:
            status, text = 304, ""
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.server.tag:
            self.send_header("ETag", self.server.tag)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, query: dict[str, str]) -> None:
        """Send what a view has, until the client goes or the server answers otherwise."""
        server, uuid = self.server, query.get("uuid", "")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while server.answer is None and server.live:
                events = [("host", server.document("host", {}))]
                events.append(("findings", documents.findings(*server.found)))
                match query.get("view"):
                    case "guests":
                        table = server.document("guests", query) or {}
                        rows = table.pop("guests")
                        order = [each["uuid"] for each in rows]
                        events.append(("guests", {**table, "order": order, "rows": rows}))
                    case "guest":
                        guest = server.document(f"guests/{uuid}", {}) or {"guest": None}
                        guest.pop("history", None)
                        events.append(("guest", guest))
                    case "agent":
                        events.append(("agent", server.agent))
                for name, document in events:
                    self.wfile.write(f"event: {name}\ndata: {json.dumps(document)}\n\n".encode())
                self.wfile.write(b": \n\n")
                server.ended.wait(server.beat)

    def handle(self) -> None:
        """Serve a connection, which a client that is killed may reset."""
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the library's name
        """Keep quiet."""


@contextmanager
def api_stub(count: int = 3, *, hurt: bool = True) -> Iterator[ApiStub]:
    """Serve so many guests; the third does not answer and the second is short of CPU, if `hurt`."""
    rows = [documents.guest_row(index) for index in range(count)]
    found = []
    if hurt:
        rows[2].update(severity="critical", stuck=True, findings=1)
        rows[1].update(severity="warning", findings=1)
        text = f"{rows[2]['name']} does not answer"
        found = [documents.finding(rows[2], "critical", text=text), documents.finding(rows[1])]
    server = ApiStub(rows, found)
    thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.live = False
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
