"""
Everything of the agent that reads bytes which others may have written, as functions of bytes.

Each returns for any input, or raises what its callers catch; anything else is a fault. What once
broke one is kept as a file in `tests/data/hostile/NAME/`.
"""

from __future__ import annotations

import json
import math
import tempfile
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from virtstatd._fast.plain import ParsedTexts
from virtstatd.catalog import Catalog, load
from virtstatd.catalog.decode import Decoder
from virtstatd.collect.descriptions.xml import Describer, Undescribable, parsed_xml
from virtstatd.collect.events.meanings import MEANINGS, meaning_of
from virtstatd.collect.guest_agent.answers import TEXT_MAX
from virtstatd.collect.guest_agent.questions import QUESTIONS
from virtstatd.collect.kernel.controllers import FILES
from virtstatd.collect.kernel.links import link_table
from virtstatd.config.file import parse_config
from virtstatd.errors import ConfigError, Rejected, StartError, TryLater
from virtstatd.insight.filters import Filter, FilterError, Order
from virtstatd.model import Domain
from virtstatd.runtime.mounts import mounted
from virtstatd.sending.address import split_address
from virtstatd.sending.credentials import _token_of
from virtstatd.sending.grpc import _message, _status
from virtstatd.sending.grpc_details import retry_delay
from virtstatd.sending.http import retry_after, sanitised
from virtstatd.sending.http2 import Frames, Http2Answer
from virtstatd.sending.postgres_url import Database
from virtstatd.serving.answers import encoded, number_asked, tag_matches
from virtstatd.serving.api import asked_of
from virtstatd.serving.http import Refusal, Request, parse_request
from virtstatd.serving.web_config import read_web_config
from virtstatd.sinks.http import _check_documents, _check_points
from virtstatd.sinks.influx import refused_lines
from virtstatd.sinks.otlp import check_partial_success


DATA = Path(__file__).parents[1] / "data" / "hostile"
PARSERS = [(layout, parse) for _, files in FILES for _, _, layout, parse in files]
GUEST = Domain("00000000-0000-0000-0000-000000000001", "web", 7, (("domain", "web"),))


@cache
def _catalog() -> Catalog:
    return load()


def xml(given: bytes) -> None:
    """Describe a guest by its XML."""
    with suppress(Undescribable):
        root = parsed_xml(given.decode("utf-8", "replace"))
        Describer(_catalog()).readings(GUEST, root)


def request(given: bytes) -> None:
    """Read the head of a request, and what it asks for."""
    try:
        found = parse_request(given)
    except Refusal:
        return
    assert found.path.startswith("/")
    assert "\n" not in "".join((found.method, found.path, found.query, *found.headers.values()))
    tag_matches(found.headers.get("if-none-match", ""), '"a"')
    _asked(found)


def query(given: bytes) -> None:
    """Read the parameters of a document or of the stream of events."""
    _asked(Request("GET", "/", {}, keep=False, query=given.decode("latin-1")))


def _asked(found: Request) -> None:
    asked = asked_of(found)
    for value in (*asked.values(), *asked):
        for use in (Filter, Order):
            with suppress(FilterError):
                use(value)
    for name in asked:
        with suppress(FilterError):
            number_asked(asked, name)
    json.loads(encoded({"error": asked}))


def configuration(given: bytes) -> None:
    """Read a configuration file."""
    with suppress(ConfigError):
        parse_config(given.decode("utf-8", "replace"), "f")


def web_config(given: bytes) -> None:
    """Read a `web.yml`."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(given)
        with suppress(StartError):
            read_web_config(Path(file.name))


def guest_agent(given: bytes) -> None:
    """Take any JSON object as what a guest's agent said."""
    answer = _json(given)
    if not isinstance(answer, dict):
        return
    for question in QUESTIONS:
        with suppress(TypeError, ValueError, AttributeError):  # of a type that libvirt never sends
            for _, labels, number in question.said(answer, 50).rows:
                assert abs(number) < 1 << 63
                assert all(len(text) <= TEXT_MAX for _, text in labels)


def record(given: bytes) -> None:
    """Decode any JSON object as a record of bulk statistics."""
    answer = _json(given)
    if not isinstance(answer, dict):
        return
    with suppress(ValueError):
        for reading in Decoder(_catalog(), lambda _: None).readings(GUEST, answer):
            assert all(map(math.isfinite, reading.values))


def event(given: bytes) -> None:
    """Take any JSON array as the arguments of each kind of event."""
    values = _json(given)
    if not isinstance(values, list):
        return
    for name in MEANINGS:
        meaning = meaning_of(name, tuple(values))
        assert all(str(each).isprintable() for each in (meaning.detail, meaning.more))


def _json(given: bytes) -> Any:
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        return None


def receiver(given: bytes) -> None:
    """Take an answer of any receiver: reasons are lines, waits and counts are numbers."""
    assert sanitised(given, lambda text: text).isprintable()
    for check in (check_partial_success, _check_points, _check_bulk):
        fault: Exception | None = None
        try:
            check(given)
        except (Rejected, TryLater) as refused:
            fault = refused
        assert str(fault).isprintable()
        assert not isinstance(fault, Rejected) or (fault.samples or 1) > 0
    assert (refused_lines(given) or 1) > 0
    token, seconds = _token_of(given.decode("utf-8", "replace"))
    assert token.isprintable()
    assert math.isfinite(seconds)


def _check_bulk(answer: bytes) -> None:
    _check_documents(answer, 100)


def header(given: bytes) -> None:
    """Take any text as a header of an answer that says when to come again, or a status."""
    text = given.decode("latin-1")
    for found in (retry_after(text), retry_delay(text), retry_delay(b64encode(given).decode())):
        assert found is None or (math.isfinite(found) and found >= 0)
    _status(Http2Answer({"grpc-status": text, ":status": text}))
    _message(given)


def frames(given: bytes) -> None:
    """Take HTTP/2 frames in pieces of any size."""
    for size in (1, 7, len(given) or 1):
        found = Frames()
        with suppress(ValueError):
            for place in range(0, len(given), size):
                for _ in found.of(given[place : place + size]):
                    pass


def address(given: bytes) -> None:
    """Read addresses and URLs as options have them."""
    text = given.decode("utf-8", "replace")
    for read in (split_address, Database.of):
        with suppress(ValueError):
            read(text)


def kernel(given: bytes) -> None:
    """Read what the kernel lists: mounts, cgroups, interfaces, pressure and counters."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(given)
        for mount in mounted(Path(file.name)):
            assert mount.kind
    link_table(given)
    for layout, parse in PARSERS:
        with suppress(ValueError, LookupError):
            parse(*ParsedTexts(layout).take([given]))


MOUTHS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        address,
        configuration,
        event,
        frames,
        guest_agent,
        header,
        kernel,
        query,
        receiver,
        record,
        request,
        web_config,
        xml,
    )
}


def kept(name: str) -> list[Path]:
    """Return the inputs of a mouth that once broke something, and those that it begins with."""
    return sorted((DATA / name).iterdir())
