"""The files of the page, and the libraries among them."""

import hashlib
import tomllib
from pathlib import Path

import pytest

import virtstatd.serving
from support.web import get, served
from virtstatd.serving.assets import page_routes
from virtstatd.serving.http import Request, Response, text_response
from virtstatd.serving.routes import found


WEB = Path(virtstatd.serving.__file__).parent / "web"
VENDOR = WEB / "vendor"


async def answer(request: Request) -> Response:
    """Answer from the page's routes alone."""
    route = found(page_routes(), request.path)
    return await route.respond(request) if route else text_response("elsewhere")


@pytest.mark.parametrize(
    ("path", "file", "content_type"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/assets/main.js", "main.js", "text/javascript; charset=utf-8"),
        ("/assets/style.css", "style.css", "text/css; charset=utf-8"),
        ("/assets/icon.svg", "icon.svg", "image/svg+xml"),
    ],
)
async def test_files_have_their_type_and_policy(path: str, file: str, content_type: str):
    """Each file comes as it is, under a policy that allows nothing from elsewhere."""
    async with served(respond=answer) as (port, _):
        status, headers, body = await get(port, path)
        assert (status, headers["content-type"]) == (200, content_type)
        assert body == (WEB / file).read_bytes()
        policy = headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'"} <= set(policy)
        assert {"require-trusted-types-for 'script'", "trusted-types lit-html"} <= set(policy)
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


async def test_what_a_browser_has_is_not_sent_again():
    """A known tag is answered with 304 and no body, a former one with the file."""
    async with served(respond=answer) as (port, _):
        _, headers, plain = await get(port, "/assets/style.css")
        tag = headers["etag"].replace("w/", "W/")
        found = await get(port, "/assets/style.css", If_None_Match=tag)
        assert found[::2] == (304, b"")
        status, _, body = await get(port, "/assets/style.css", If_None_Match='W/"else"')
        assert (status, body) == (200, plain)


async def test_files_are_compressed_for_who_can_read_that():
    """A client that takes gzip gets a fraction of the bytes."""
    async with served(respond=answer) as (port, _):
        _, headers, body = await get(port, "/assets/style.css", Accept_Encoding="gzip")
        assert headers["content-encoding"] == "gzip"
        assert len(body) * 2 < len((WEB / "style.css").read_bytes())


@pytest.mark.parametrize(
    "path",
    [
        "/assets/",
        "/assets/../assets.py",
        "/assets/%2e%2e/assets.py",
        "/assets/vendor/vendor.toml",
        "/assets/vendor/uplot-1.6.32/LICENSE",
        "/assets//etc/passwd",
    ],
)
async def test_nothing_else_is_served(path: str):
    """Only files of the page that a browser loads have a path."""
    async with served(respond=answer) as (port, _):
        assert (await get(port, path))[0] == 404


def test_the_page_is_private():
    """Where other machines reach the agent and nobody logs in, the page is not shown."""
    assert all(route.private for route in page_routes())


def test_libraries_are_those_of_their_authors():
    """Each file of a library has the checksum that is on record, and each has a record."""
    packages = tomllib.loads((VENDOR / "vendor.toml").read_text())["package"]
    recorded = {
        f"{each['name']}-{each['version']}/{path}": digest
        for each in packages
        for path, digest in each["files"].items()
    }
    actual = {
        str(path.relative_to(VENDOR)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "vendor.toml"
    }
    assert actual == recorded


def test_own_modules_take_markup_from_nowhere():
    """No module of the page makes markup, styles or code from text."""
    forbidden = (
        *("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "unsafeHTML"),
        *("eval(", "Function(", "import(", "style=", "http://", "https://"),
    )
    for path in WEB.glob("*.js"):
        text = path.read_text().replace(".style=", "")
        assert not [each for each in forbidden if each in text], path.name
