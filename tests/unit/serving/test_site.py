"""What is answered at an address."""

import pytest
import structlog

from virtstatd.runtime.host import host_name
from virtstatd.serving.access import WebAccess
from virtstatd.serving.http import Request, Response, text_response
from virtstatd.serving.options import WebOptions
from virtstatd.serving.routes import Route
from virtstatd.serving.settings import FollowedSettings
from virtstatd.serving.site import Site
from virtstatd.testing import FakeClock


BROWSER = {"user-agent": "Mozilla/5.0"}
SCRAPER = {"user-agent": "Prometheus/2.42.0", "accept": "text/plain"}


async def path_of(request: Request) -> Response:
    """Answer with the path."""
    return text_response(request.path)


async def status(
    host: str, headers: dict[str, str], path: str = "/metrics", hosts: tuple[str, ...] = ()
) -> int:
    """Return the status of an answer."""
    clock = FakeClock()
    site = Site(
        [Route("/metrics", path_of), Route("/api/", path_of), Route("/", path_of, private=True)],
        FollowedSettings(WebOptions(), structlog.testing.CapturingLogger(), clock),
        WebAccess({}, clock),
        ready=lambda: True,
        hosts=hosts,
    )
    answer = await site.answer(Request("GET", path, headers, keep=True, host=host))
    return answer.status.value


@pytest.mark.parametrize(
    ("host", "headers", "wanted"),
    [
        ("localhost", BROWSER, 200),
        ("a.localhost", BROWSER, 200),
        (host_name().lower(), BROWSER, 200),
        ("192.0.2.1", BROWSER, 200),
        ("::1", BROWSER, 200),
        ("", BROWSER, 200),
        ("evil.example", BROWSER, 421),
        ("evil.example", {"accept-language": ""}, 421),
        ("evil.example", {"referer": "http://evil.example/"}, 421),
        ("127.0.0.1.evil.example", BROWSER, 421),
        ("localhost.evil.example", BROWSER, 421),
        ("hv1.example", BROWSER, 200),
        ("any.name.example", SCRAPER, 200),
        ("any.name.example", {}, 200),
    ],
)
async def test_a_browser_asks_for_this_host_or_for_nothing(
    host: str, headers: dict[str, str], wanted: int
):
    """A name that is not this host's own gives a browser nothing, health included."""
    for path in "/metrics", "/-/healthy":
        assert await status(host, headers, path, hosts=("HV1.example",)) == wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", 200),
        ("/metrics", 200),
        ("/metrics/", 404),
        ("/api/v1/host", 200),
        ("/api", 404),
        ("/other", 404),
        ("/-/healthy", 200),
        ("/-/ready", 200),
        ("/-/other", 404),
    ],
)
async def test_paths(path: str, wanted: int):
    """A path is answered by its own route, or by one that has all below it."""
    assert await status("localhost", {}, path) == wanted
