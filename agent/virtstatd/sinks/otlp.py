"""OpenTelemetry's protocol over HTTP or gRPC; `formats/otlp.py` makes the messages."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from msgspec import Meta
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

from virtstatd import __version__
from virtstatd.errors import Denied, TooLarge
from virtstatd.formats.deltas import Deltas
from virtstatd.formats.lifetimes import EndedSeries, Staleness
from virtstatd.formats.otlp import OtlpEncoder, Points
from virtstatd.formats.runs import Runs
from virtstatd.model import Reading
from virtstatd.runtime.compress import compressed
from virtstatd.runtime.installing import installing
from virtstatd.sending.access import Access
from virtstatd.sending.http import LANES, http_client
from virtstatd.sending.named import ByHost, Named
from virtstatd.sending.requests import post_together
from virtstatd.sink import Batch, Delivery, Opening, Rejected, Send, Trains
from virtstatd.sinks.own_names import check_attributes


SHOWN_CHARACTERS = 256
METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"

Export = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Otlp(Named, Access):
    """Push to an OpenTelemetry collector, or to another receiver of OTLP, over HTTP or gRPC."""

    url: Annotated[
        str,
        Meta(
            description="URL that receives metrics: with its path for HTTP, without one for gRPC."
        ),
    ] = "http://127.0.0.1:4318/v1/metrics"
    protocol: Annotated[
        Literal["http", "grpc"],
        Meta(description="http, or grpc, which usually has a port of its own, 4317."),
    ] = "http"
    resource_attributes: Annotated[
        dict[str, str], Meta(description="More attributes of the resource.")
    ] = field(default_factory=dict)
    temporality: Annotated[
        Literal["cumulative", "delta"],
        Meta(
            description="Counters as totals since their beginning, or as growth since the last"
            " batch."
        ),
    ] = "cumulative"
    mark_ended: Annotated[
        bool,
        Meta(description="Send a point without a value for each series that has ended."),
    ] = False
    request_samples: Annotated[
        int, Meta(description="Samples in one request.", ge=100, le=20_000)
    ] = 10_000
    compress: Annotated[bool, Meta(description="Send requests compressed by gzip.")] = True

    delivery: ClassVar[Delivery] = "memory"

    def __post_init__(self) -> None:
        Access.__post_init__(self)
        check_attributes("resource_attributes", self.resource_attributes, self.host)
        if self.protocol == "grpc":
            if urlsplit(self.url).path.strip("/"):
                raise ValueError("url: must have no path for gRPC, like http://127.0.0.1:4317")
            if self.proxy_url:
                raise ValueError("proxy_url: is for protocol = http")
            if find_spec("h2") is None:
                raise ValueError(
                    "protocol: grpc needs the Python module h2, which is not installed;"
                    f" {installing('virtstatd[otlp-grpc]')}"
                )

    @property
    def trains(self) -> Trains:
        """The size of a request, and how many are under way at once when much waits."""
        return Trains(self.request_samples, LANES)

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Read the credentials; connect with the first batch."""
        encoders = ByHost(
            self.host,
            lambda host: OtlpBatches(
                host,
                self.resource_attributes,
                delta=self.temporality == "delta",
                ended=self.mark_ended,
            ),
        )
        async with self._exporting() as export:
            opening.log.debug("otlp.opened", url=self.shown_url)

            async def post(body: bytes, _: int) -> None:
                check_partial_success(await export(body))

            async def together(*batches: Batch) -> None:
                encoder = encoders()
                await post_together(batches, encoder.items, encoder.join, post, encoder.settle)

            async def one_by_one(*batches: Batch) -> None:
                encoder, lost, reason = encoders(), 0, ""
                for batch in batches:
                    try:
                        await post_together([batch], encoder.items, encoder.join, post, unsettled)
                    except Rejected as error:
                        if error.atomic or isinstance(error, Denied | TooLarge):
                            raise
                        encoder.settle(batch, delivered=error.samples is not None)
                        lost += batch.samples if error.samples is None else error.samples
                        reason = str(error)
                    else:
                        encoder.settle(batch)
                if lost:
                    raise Rejected(reason, lost)

            # what a batch holds depends on what the receiver has of those before
            send = one_by_one if self.mark_ended or self.temporality == "delta" else together

            yield send

    @asynccontextmanager
    async def _exporting(self) -> AsyncIterator[Export]:
        """Yield a function that sends a request and returns the answer."""
        if self.protocol == "grpc":
            from virtstatd.sending import grpc

            async with grpc.grpc_client(self, METHOD) as calling:
                yield functools.partial(calling.call, compress=self.compress)
        else:
            headers = {"Content-Type": "application/x-protobuf"}
            if self.compress:
                headers["Content-Encoding"] = "gzip"
            async with http_client(self) as client:

                async def export(body: bytes) -> bytes:
                    packed = await compressed(body) if self.compress else body
                    return await client.post(self.url, packed, headers)

                yield export


def unsettled(_: Batch) -> None:
    """Leave it to the caller to settle."""


class OtlpBatches:
    """The data points of batches under one resource, and what a receiver has of their series."""

    def __init__(
        self, host: str, attributes: Mapping[str, str], *, delta: bool = False, ended: bool = False
    ) -> None:
        resource = {
            "service.name": "virtstatd",
            "service.instance.id": host,
            "host.name": host,
            **attributes,
        }
        self._encoder = OtlpEncoder(tuple(resource.items()), __version__, delta=delta)
        self._runs = Runs()
        self._deltas = Deltas() if delta else None
        self._staleness = Staleness() if ended else None
        self.join = self._encoder.request

    def items(self, batch: Batch) -> list[tuple[int, Callable[[], list[Points]]]]:
        """Return what encodes each reading, with its number of samples, then what has ended."""
        ended: tuple[EndedSeries, ...] = ()
        self._runs.learn(batch)
        if self._staleness is not None:
            plan = self._staleness.plan(batch)
            batch, ended = replace(batch, readings=plan.readings), plan.ended
        items: list[tuple[int, Callable[[], list[Points]]]] = [
            (
                len(reading.values),
                functools.partial(
                    self._encoder.encode,
                    reading.shape,
                    reading.domain.labels if reading.domain else (),
                    reading.values,
                    start,
                    batch.taken_at,
                ),
            )
            for reading, start in self._readings(batch)
        ]
        items += [
            (len(each.series), functools.partial(self._encoder.encode_ended, each))
            for each in ended
        ]
        return items

    def settle(self, batch: Batch, *, delivered: bool = True) -> None:
        """Take in a batch that is done with; `delivered` says that the receiver has some of it."""
        self._runs.settle(batch)
        if self._deltas is not None and delivered:
            self._deltas.settle(batch)
        if self._staleness is not None:
            self._staleness.settle(self._staleness.plan(batch))

    def _readings(self, batch: Batch) -> Iterator[tuple[Reading, int]]:
        if self._deltas is not None:
            for each in self._deltas.of(batch):
                yield each.reading, each.start
        else:
            for reading in batch.readings:
                yield reading, self._runs.began(reading, batch)


def check_partial_success(answer: bytes) -> None:
    """Raise Rejected for a successful answer that reports refused data points."""
    response = ExportMetricsServiceResponse()
    try:
        response.ParseFromString(answer)
    except DecodeError:
        return  # the status was success, so an unreadable body changes nothing
    refused = response.partial_success.rejected_data_points
    if refused > 0:
        said = response.partial_success.error_message[:SHOWN_CHARACTERS]
        text = "".join(each if each.isprintable() else " " for each in said)
        raise Rejected(f"{refused} data points were refused: {text}", refused)
