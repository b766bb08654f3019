"""Every sink says which host it speaks for, also after the host was renamed."""

from typing import Any

import pytest

from virtstatd.config.options import options
from virtstatd.config.plugins import SINKS
from virtstatd.sending.named import ByHost, Named


def test_a_host_that_is_renamed():
    """What has the host's name is made anew when the kernel's name changes, and only then."""
    name = ["old"]
    made: list[str] = []

    def make(host: str) -> str:
        made.append(host)
        return host

    by_host = ByHost("", make, lambda: name[0])
    assert [by_host(), by_host()] == ["old", "old"]
    name[0] = "new"
    assert [by_host(), by_host()] == ["new", "new"]
    assert made == ["old", "new"]
    given = ByHost("given", make, lambda: name[0])
    assert given() == "given"


@pytest.mark.parametrize("name", sorted({*SINKS.names()} - {"null", "prometheus", "textfile"}))
def test_every_sink_that_sends_has_the_option(name: str):
    """`host` is one option with one meaning in every sink that does not leave it to a scraper."""
    (wanted,) = options(Named)
    found: dict[str, Any] = {each.name: each.description for each in options(SINKS.find(name))}
    assert found["host"] == wanted.description
