"""
Prometheus remote write, what Prometheus, Mimir, Thanos and VictoriaMetrics receive.

`formats/write1.py` makes the messages of version 1.0, `formats/write2.py` those of version 2.0,
which say the kind, help and unit of series as well, and when counters began.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, ClassVar, Literal

import cramjam
from msgspec import Meta
from structlog.typing import FilteringBoundLogger

from virtstatd.errors import Denied, Rejected, TryLater
from virtstatd.formats.lifetimes import MILLISECOND, Plan, Staleness, Undo
from virtstatd.formats.runs import Runs
from virtstatd.formats.write1 import WriteEncoder
from virtstatd.formats.write2 import Write2Encoder
from virtstatd.runtime.compress import compressed
from virtstatd.sending.access import Access
from virtstatd.sending.http import LANES, HttpAnswer, HttpClient, http_client
from virtstatd.sending.link import FIX_SECONDS
from virtstatd.sending.named import ByHost, Named
from virtstatd.sink import Batch, Delivery, Opening, Send, Trains
from virtstatd.sinks.other_names import OtherNames
from virtstatd.sinks.own_names import check_labels


Version = Literal["1.0", "2.0"]
_Planned = tuple[Plan, list[int]]
"""What to write of a batch, and when the counters of its readings began."""

HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
HEADERS_2 = {
    "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "2.0.0",
}
WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"

OUT_OF_ORDER = re.compile(rb"out.of.order")

_AWAY = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteWrite(OtherNames, Named, Access):
    """Push to a receiver of Prometheus remote write, in version 1.0 or 2.0."""

    url: Annotated[str, Meta(description="URL that receives, with its path.")] = (
        "http://127.0.0.1:9090/api/v1/write"
    )
    protocol: Annotated[
        Literal["auto", "1.0", "2.0"],
        Meta(description="Version: 1.0, 2.0, or auto: 2.0 if the receiver supports it."),
    ] = "auto"
    job: Annotated[str, Meta(description="Label `job` on every series; empty is none.")] = (
        "virtstatd"
    )
    external_labels: Annotated[dict[str, str], Meta(description="More labels on every series.")] = (
        field(default_factory=dict)
    )
    request_samples: Annotated[
        int, Meta(description="Samples in one request.", ge=100, le=20_000)
    ] = 10_000

    delivery: ClassVar[Delivery] = "memory"
    max_age_seconds: ClassVar[float] = 3600.0  # what Prometheus takes into its head block

    def __post_init__(self) -> None:
        Access.__post_init__(self)
        for name in self.external_labels:
            if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name):
                raise ValueError(
                    f"external_labels: {name!r} is no name of a label; use letters, digits and _"
                )
        check_labels("external_labels", self.external_labels)
        if self.host and "instance" in self.external_labels:
            raise ValueError("external_labels: `instance` is what host says already")

    @property
    def trains(self) -> Trains:
        """The size of a request, and how many at once."""
        return Trains(self.request_samples, LANES)

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Read the credentials; connect with the first batch."""
        async with http_client(self) as client:
            yield RemoteWriter(client, self, opening.log).send


class RemoteWriter:
    """
    Write batches to one receiver in a version that it understands, and mark series that ended.

    Old receivers accept 2.0 and store nothing. So an empty 2.0 request is sent first, and 2.0 is
    used only if the answer has the headers that 2.0 requires. After a lost connection the receiver
    is probed again, since it may be another one.
    """

    def __init__(self, client: HttpClient, options: RemoteWrite, log: FilteringBoundLogger) -> None:
        self._client = client
        self._url = options.url
        self._place = options.shown_url
        self._wanted = options.protocol
        self._log = log
        self._translated = options.translating()
        self._encoders = ByHost(options.host, lambda host: _encoders(options, host))
        self._spoken: Version | None = "1.0" if options.protocol == "1.0" else None
        self._logged: Version | None = None
        self._staleness = Staleness()
        self._runs = Runs()

    async def send(self, *batches: Batch) -> None:
        """Write each batch's samples, then its stale markers, which matter less."""
        planned: list[_Planned] = []
        undone: list[Undo] = []
        for batch in map(self._translated, batches):
            plan = self._staleness.plan(batch)
            self._runs.learn(batch)
            starts = [
                max(0, self._runs.witnessed(reading, batch) // MILLISECOND - 1)
                for reading in plan.readings
            ]
            planned.append((plan, starts))
            undone.append(self._staleness.settle(plan))  # the next batch follows on it
        try:
            await self._write(planned)
        except BaseException as error:
            # a receiver that refuses some has the rest, and needs markers when that ends
            if isinstance(error, Rejected) and not (error.atomic or isinstance(error, Denied)):
                self._settle(batches)
            else:
                self._staleness.undo(undone)
            raise
        self._settle(batches)

    def _settle(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self._runs.settle(batch)

    async def _write(self, planned: list[_Planned]) -> None:
        try:
            await self._speaking(planned)
        except _NotUnderstoodError as error:
            self._older(str(error))
            await self._speaking(planned)

    async def _speaking(self, planned: list[_Planned]) -> None:
        if self._spoken is None:
            await self._choose()
        encoder = self._encoders()[self._spoken or "1.0"]
        post = self._post2 if self._spoken == "2.0" else self._post
        items = [item for plan, starts in planned for item in encoder.items(plan, starts)]
        if items:
            body = encoder.request([encode() for _, encode in items])
            await post(body, sum(count for count, _ in items))

    async def _choose(self) -> None:
        """Ask the receiver with an empty request of version 2.0."""
        encoder = self._encoders()["2.0"]
        answer = await self._ask(encoder.request([]), HEADERS_2)
        if isinstance(answer.fault, TryLater) and answer.status in _AWAY:
            raise answer.fault
        if isinstance(answer.fault, Denied):
            raise answer.fault
        if WRITTEN in answer.headers and answer.status != HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            self._speak("2.0")
        else:
            self._older(f"it answers {answer.status} to an empty request")

    def _older(self, reason: str) -> None:
        """Go back to 1.0, unless 2.0 is all that is wanted."""
        if self._wanted == "2.0":
            self._spoken = None
            raise TryLater(f"{self._place} does not understand version 2.0: {reason}", FIX_SECONDS)
        self._speak("1.0")

    def _speak(self, version: Version) -> None:
        self._spoken = version
        if version != self._logged:
            self._logged = version
            self._log.info("write.negotiated", protocol=version)

    async def _post(self, body: bytes, _: int) -> None:
        answer = await self._ask(body, HEADERS)
        if answer.fault:
            raise _overtaken(answer.fault, answer.body)

    async def _post2(self, body: bytes, samples: int) -> None:
        answer = await self._ask(body, HEADERS_2)
        written = _number(answer.headers.get(WRITTEN, ""))
        if answer.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE or (
            written is None and not answer.fault
        ):
            raise _NotUnderstoodError(f"it answers {answer.status} without saying what it wrote")
        if answer.fault:
            if written and type(answer.fault) is Rejected:
                raise Rejected(str(answer.fault), max(0, samples - written))
            raise _overtaken(answer.fault, answer.body)
        if written is not None and written < samples:
            raise Rejected(f"{samples - written} samples were not written", samples - written)

    async def _ask(self, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        try:
            packed = await compressed(body, _snappy)
            return await self._client.ask(self._url, packed, headers)
        except BaseException:
            if self._wanted != "1.0":
                self._spoken = None
            raise


def _encoders(options: RemoteWrite, host: str) -> dict[Version, WriteEncoder | Write2Encoder]:
    external = {"job": options.job, "instance": host, **options.external_labels}
    labels = tuple(external.items())
    return {"1.0": WriteEncoder(labels), "2.0": Write2Encoder(labels)}


def _overtaken(fault: TryLater | Rejected, answer: bytes) -> TryLater | Rejected:
    """Return a fault that says whether the receiver has newer samples."""
    if isinstance(fault, Rejected) and fault.atomic and OUT_OF_ORDER.search(answer):
        return Rejected(str(fault), atomic=True, overtaken=True)
    return fault


def _snappy(body: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(body))


class _NotUnderstoodError(Exception):
    """The receiver has not understood version 2.0."""


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,12}", text) else None
