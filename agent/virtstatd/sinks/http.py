"""
Requests to any HTTP API: ClickHouse, VictoriaMetrics, OpenSearch, Loki, Splunk and their like.

| destination | `format` | `wrapper` | path of `url` |
|---|---|---|---|
| ClickHouse | json | clickhouse | `/?query=INSERT+INTO+samples+FORMAT+JSONEachRow` |
| VictoriaMetrics | prometheus | | `/api/v1/import/prometheus` |
| OpenSearch (untried) | json | opensearch | `/_bulk` |
| Loki (untried) | json | loki | `/loki/api/v1/push` |
| Splunk (untried) | json | splunk | `/services/collector/event`, its token in `header_files` |

Untried is what ran against a stub of its API alone. Documents are shown in `formats/documents.py`.
ClickHouse reads their times with `&date_time_input_format=best_effort` in the URL.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, Literal, TypeVar

from msgspec import Meta

from virtstatd.errors import Denied, Rejected, StartError, TooLarge, TryLater
from virtstatd.formats.documents import DocumentEncoder
from virtstatd.formats.timed_text import TimedText
from virtstatd.runtime.compress import compressed, gzipped
from virtstatd.runtime.installing import installing
from virtstatd.sending.access import Access
from virtstatd.sending.dead_letters import dead_letters
from virtstatd.sending.files import check_writable
from virtstatd.sending.http import LANES, HttpAnswer, http_client
from virtstatd.sending.named import ByHost, Named
from virtstatd.sending.requests import post_together
from virtstatd.sink import Batch, Delivery, Opening, Send, Trains
from virtstatd.sinks.influx import KEPT, influx_lines, refused_lines
from virtstatd.sinks.own_names import check_attributes, check_labels


if TYPE_CHECKING:
    from virtstatd.formats.otlp import Points

T = TypeVar("T")

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
TEXT = "text/plain; charset=utf-8"

BULK = "filter_path=errors,items.*.status,items.*.error.reason"
"""Keeps OpenSearch's answer short: it has an entry for each document."""

AGAIN = frozenset({429, 500, 502, 503, 504})
"""Statuses of a document after which all are sent again; those that are there stay one."""

THERE = 409
"""The status of a document that is there already, from a request whose answer was lost."""

_STATUS = re.compile(rb'"status":([0-9]{3})\b')
_REASON = re.compile(rb'"reason":"((?:[^"\\]|\\.){1,200})')


@dataclass(frozen=True, slots=True)
class HttpFormat(Generic[T]):
    """What encodes the readings of a batch, and joins them into a request."""

    items: Callable[[Batch], list[tuple[int, Callable[[], T]]]]
    join: Callable[[list[T]], bytes]
    settle: Callable[[Batch], None] = lambda _: None

    async def send(
        self, batches: Sequence[Batch], post: Callable[[bytes, int], Awaitable[None]]
    ) -> None:
        """Send batches in one request."""
        await post_together(batches, self.items, self.join, post, self.settle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Http(Named, Access):
    """Post to any HTTP API: documents of JSON, line protocol, Prometheus' text or OTLP's JSON."""

    url: Annotated[str, Meta(description="URL that is posted to, with its path and query.")] = (
        "http://127.0.0.1:8080/"
    )
    format: Annotated[
        Literal["json", "influx", "prometheus", "otlp-json"],
        Meta(
            description="json: documents; influx: line protocol; prometheus: text with times;"
            " otlp-json: OpenTelemetry's."
        ),
    ] = "json"
    wrapper: Annotated[
        Literal["none", "array", "clickhouse", "opensearch", "loki", "splunk"],
        Meta(
            description="Form of a request: none (lines), array, clickhouse (JSONEachRow), or"
            " the API of opensearch, loki or splunk. The last three were tried with stubs only."
        ),
    ] = "none"
    index: Annotated[
        str, Meta(description="Index of OpenSearch, `job` in Loki, `source` in Splunk.")
    ] = "virtstatd"
    tags: Annotated[
        dict[str, str], Meta(description="More tags or labels, of influx, prometheus, otlp-json.")
    ] = field(default_factory=dict)
    request_samples: Annotated[
        int, Meta(description="Samples in one request.", ge=100, le=20_000)
    ] = 10_000
    compress: Annotated[
        Literal["none", "gzip", "zstd"], Meta(description="Compression: none, gzip or zstd.")
    ] = "gzip"
    dead_letter_file: Annotated[
        str, Meta(description="Path of a file for what is refused, with reasons; empty is none.")
    ] = ""
    dead_letter_bytes: Annotated[
        int, Meta(description="Most bytes of that file and the one before it.", ge=10_000)
    ] = 10_000_000

    delivery: ClassVar[Delivery] = "memory"

    def __post_init__(self) -> None:
        Access.__post_init__(self)
        if self.wrapper != "none" and self.format != "json":
            raise ValueError("wrapper: needs format = json")
        if self.tags and self.format == "json":
            raise ValueError("tags: need another format than json")
        if self.format == "otlp-json":
            check_attributes("tags", self.tags, self.host)
        elif self.format == "influx":
            check_labels("tags", self.tags, KEPT, reserved="_")
        else:
            check_labels("tags", self.tags, ("instance",))
        if self.dead_letter_file and not self.dead_letter_file.startswith("/"):
            raise ValueError("dead_letter_file: must be an absolute path")
        if self.compress == "zstd" and find_spec("cramjam") is None:
            raise ValueError(
                "compress: zstd needs the Python module cramjam, which is not installed;"
                f" {installing('virtstatd[zstd]')}"
            )
        if self.format == "otlp-json" and find_spec("opentelemetry.proto") is None:
            raise ValueError(
                "format: otlp-json needs the Python module opentelemetry-proto, which is not"
                f" installed; {installing('virtstatd[otlp]')}"
            )

    def check_here(self) -> None:
        """Raise StartError when a secret, a file of TLS or that of letters cannot be used."""
        Access.check_here(self)
        if self.dead_letter_file:
            try:
                check_writable(Path(self.dead_letter_file))
            except StartError as error:
                raise StartError(f"dead_letter_file: {error}") from error

    @property
    def records(self) -> bool:
        """Whether it takes findings: documents have room for their texts."""
        return self.format == "json"

    @property
    def trains(self) -> Trains:
        """The size of a request, and how many are under way at once when much waits."""
        return Trains(self.request_samples, LANES)

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Read the credentials; connect with the first batch."""
        formats = ByHost(self.host, self._format)
        headers = {"Content-Type": self._type()}
        if self.compress != "none":
            headers["Content-Encoding"] = self.compress
        pack = _zstd if self.compress == "zstd" else gzipped
        url = self.url
        if self.wrapper == "opensearch" and "filter_path" not in url:
            url += ("&" if "?" in url else "?") + BULK
        async with (
            http_client(self) as client,
            dead_letters(self.dead_letter_file, self.dead_letter_bytes, opening.log) as bury,
        ):

            async def post(body: bytes, samples: int) -> None:
                if not body:  # all of it was NaN or infinity
                    return
                if self.format == "otlp-json":
                    body = await asyncio.to_thread(_json_of, body)
                try:
                    packed = body if self.compress == "none" else await compressed(body, pack)
                    answer = await client.ask(url, packed, headers)
                    self._check(answer, body, samples)
                except Rejected as error:
                    if bury and not isinstance(error, TooLarge | Denied):
                        await bury(str(error), error.samples or samples, body)
                        # what is kept is lost: it is not searched for a part to blame
                        raise Rejected(str(error), error.samples) from error
                    raise

            async def send(*batches: Batch) -> None:
                await formats().send(batches, post)

            yield send

    def _type(self) -> str:
        match self.format, self.wrapper:
            case "otlp-json", _:
                return JSON
            case "json", "none" | "clickhouse" | "opensearch":
                return JSON_LINES
            case "json", _:
                return JSON
        return TEXT

    def _format(self, host: str) -> HttpFormat[bytes] | HttpFormat[list[Points]]:
        match self.format:
            case "influx":
                return HttpFormat(influx_lines("libvirt_", host, self.tags).items, b"".join)
            case "prometheus":
                labels = (("instance", host), *self.tags.items())
                return HttpFormat(TimedText(labels).items, b"".join)
            case "otlp-json":
                from virtstatd.sinks.otlp import OtlpBatches

                batches = OtlpBatches(host, self.tags)
                return HttpFormat(batches.items, batches.join, batches.settle)
        documents = DocumentEncoder(self.wrapper, host, self.index)
        return HttpFormat(documents.items, documents.request)

    def _check(self, answer: HttpAnswer, body: bytes, samples: int) -> None:
        """Raise for what was not taken, of the request or of documents in it."""
        if answer.fault is None:
            if self.format == "otlp-json":
                _check_points(answer.body)
            if self.wrapper == "opensearch" and b'"errors":true' in answer.body:
                _check_documents(answer.body, samples)
            return
        refused = refused_lines(answer.body) if self.format == "influx" else None
        if refused is None or isinstance(answer.fault, TryLater | Denied | TooLarge):
            raise answer.fault
        lines = body.count(b"\n")
        raise Rejected(str(answer.fault), -(-samples * min(refused, lines) // lines))


def _json_of(body: bytes) -> bytes:
    """Return a request of protocol buffers as OTLP's JSON; slow, so not on the event loop."""
    from google.protobuf.json_format import MessageToJson
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )

    message = ExportMetricsServiceRequest.FromString(body)
    return MessageToJson(message, indent=None, use_integers_for_enums=True).encode()


def _check_points(answer: bytes) -> None:
    """Raise Rejected for a successful answer of OTLP that reports refused data points."""
    with suppress(ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        partial = json.loads(answer).get("partialSuccess") or {}
        if (refused := int(partial.get("rejectedDataPoints", 0))) > 0:
            said = "".join(
                each if each.isprintable() else " " for each in str(partial.get("errorMessage", ""))
            )
            raise Rejected(f"{refused} data points were refused: {said[:200]}", refused)


def _zstd(body: bytes) -> bytes:
    import cramjam

    return bytes(cramjam.zstd.compress(body, 1))


def _check_documents(answer: bytes, samples: int) -> None:
    """Raise for documents that OpenSearch has not taken, of a request that it has."""
    statuses = [int(each) for each in _STATUS.findall(answer)]
    reason = (_REASON.findall(answer) or [b"it does not say why"])[0].decode("utf-8", "replace")
    said = "".join(each if each.isprintable() else " " for each in reason)
    if AGAIN & {*statuses}:
        raise TryLater(f"documents are for later: {said}")
    refused = sum(each >= HTTPStatus.BAD_REQUEST and each != THERE for each in statuses)
    if refused:
        raise Rejected(
            f"{refused} documents were refused: {said}", -(-samples * refused // len(statuses))
        )
