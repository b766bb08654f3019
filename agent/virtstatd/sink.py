"""
What a sink is: everything that a third party needs to import.

A sink is one class. Its annotated fields are its options, documented and bounded by
`Annotated[..., msgspec.Meta(description=..., ge=...)]`; its `open` is an asynchronous context
manager that connects, yields the one verb `send`, and closes.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from structlog.typing import FilteringBoundLogger

from virtstatd.errors import Denied, Rejected, StartError, TooLarge, TryLater
from virtstatd.model import Batch, Domain, Field, Kind, Labels, Reading, Series, Shape
from virtstatd.serving.routes import Routes


__all__ = [
    "Batch",
    "Delivery",
    "Denied",
    "Domain",
    "Field",
    "Kind",
    "Labels",
    "Opening",
    "Reading",
    "Rejected",
    "Send",
    "Series",
    "Shape",
    "Sink",
    "StartError",
    "TooLarge",
    "Trains",
    "TryLater",
]

Delivery = Literal["latest", "memory", "spool", "fire-and-forget"]
Send = Callable[[Batch], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Opening:
    """
    What the agent hands to a sink that opens: its name in the configuration and its log.

    A sink that shows something by HTTP adds it to `routes`, for the agent's own listener. One that
    listens itself puts its socket into `sockets`, under its own name: it stays open while the agent
    restarts with a changed configuration.
    """

    name: str
    log: FilteringBoundLogger
    sockets: dict[str, socket.socket] = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)


@dataclass(frozen=True, slots=True)
class Trains:
    """
    How much a sink takes at once: `samples` in one call, and so many calls at once as `lanes`.

    Calls at the same time have no guest in common.
    """

    samples: int
    lanes: int = 1


class Sink(Protocol):
    """
    Send now or raise. The outlet in front of it buffers, batches, times out and retries.

    `send` returns when the destination has the batch, raises `TryLater` when the same batch may
    succeed later, `Rejected` when it never will. It is never called twice at once, may be cancelled
    at any await, and does not buffer. `open` raises `StartError` with one sentence that names the
    fix if the sink cannot work at all (a port in use); a destination that is merely unavailable is
    reported by `send`. A sink whose destinations refuse old samples has their maximum age in a
    class variable `max_age_seconds`.

    A sink that can put several batches into one request has an attribute `trains`, of that class.
    Its `send` takes any number of batches, `async def send(*batches)`, which are delivered or
    refused together, in their order. The outlet fills requests with what waits, cuts batches that
    are larger, and makes both smaller where the destination says `TooLarge`. Without `trains` each
    call has one batch, whole unless it had to be cut.

    A sink with a true attribute `records` also gets findings as they begin and end, and events,
    batches of the groups `finding` and `event`, whose texts are labels: for formats in which a
    label is no series.
    """

    delivery: ClassVar[Delivery]

    def open(self, opening: Opening) -> AbstractAsyncContextManager[Send]:
        """Connect, yield `send`, and close."""
        ...
