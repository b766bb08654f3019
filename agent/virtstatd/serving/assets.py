"""The page at `/`: its files as the package has them, with a tag and a strict content policy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from virtstatd.runtime.compress import gzipped
from virtstatd.serving.http import Request, Response, text_response
from virtstatd.serving.routes import Route


FRONT: Final = "index.html"
BELOW: Final = "/assets/"
TYPES: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
"""What is served at all, by the end of its name."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; require-trusted-types-for 'script'; trusted-types lit-html;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",  # a browser asks each time, and gets 304 while nothing changed
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file; `tag` changes with its content."""

    content: bytes
    compressed: bytes
    content_type: str
    tag: str

    def response(self, request: Request) -> Response:
        """Answer a request for it, without a body where the client has this content."""
        known = request.headers.get("if-none-match", "")
        headers = {**HEADERS, "ETag": self.tag}
        if self.tag in {each.strip() for each in known.split(",")}:
            return Response((), 0, self.content_type, HTTPStatus.NOT_MODIFIED, headers)
        body = self.content
        if "gzip" in request.headers.get("accept-encoding", ""):
            body = self.compressed
            headers["Content-Encoding"] = "gzip"
        return Response((body,), len(body), self.content_type, headers=headers)


def page_routes() -> list[Route]:
    """Return what shows the page; each file is read and compressed at its first request."""
    files = dict(_files(resources.files("virtstatd.serving") / "web"))
    asset = cache(lambda name: _asset(files[name]))

    async def front(request: Request) -> Response:
        return asset(FRONT).response(request)

    async def below(request: Request) -> Response:
        name = request.path.removeprefix(BELOW)
        if name not in files:
            return text_response("No such file.", HTTPStatus.NOT_FOUND)
        return asset(name).response(request)

    return [Route("/", front, private=True), Route(BELOW, below, private=True)]


def _files(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{above}{entry.name}/")
        elif _ending(entry) in TYPES:
            yield f"{above}{entry.name}", entry


def _ending(file: Traversable) -> str:
    return file.name.rpartition(".")[2]


def _asset(file: Traversable) -> Asset:
    content = file.read_bytes()
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    return Asset(content, gzipped(content), TYPES[_ending(file)], tag)
