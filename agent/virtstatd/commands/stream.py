"""The live stream of an agent's API, read by one thread and ended by any."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, Final

from virtstatd.commands.api import MAX_BYTES, AgentApi, ApiError


SILENT_SECONDS: Final = 40.0
"""The agent sends a comment each 15 s where nothing changes."""

READ_BYTES: Final = 1 << 16

LiveEvent = tuple[str, dict[str, Any]]
"""Its name and its document."""


class EventStream:
    """The live events of an agent, one stream at a time."""

    def __init__(self, api: AgentApi) -> None:
        self._api = api
        self._socket: socket.socket | None = None

    def events(self, **query: object) -> Iterator[list[LiveEvent]]:
        """
        Yield what came together, until the stream is cut; raises ApiError, also where it ends.

        `query` is that of `/api/v1/live`.
        """
        connection, answer = self._api.opened("live", SILENT_SECONDS, **query)
        self._socket = connection
        try:
            text = b""
            while True:
                try:
                    more = answer.read1(READ_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise self._api.unreachable(error) from error
                *whole, text = (text + more).split(b"\n\n")
                if not more or len(text) > MAX_BYTES:
                    raise ApiError(f"the stream of {self._api.where} has ended")
                if events := [each for each in map(_event, whole) if each]:
                    yield events
        finally:
            self._socket = None
            answer.close()
            connection.close()

    def cut(self) -> None:
        """End the stream that is read now: its reader gets an ApiError at once."""
        if connection := self._socket:
            with contextlib.suppress(OSError):
                # of the plain socket: TLS has a state, which is its reader's
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _event(text: bytes) -> LiveEvent | None:
    """Return an event, None for a comment."""
    name, data = "", b""
    for line in text.split(b"\n"):
        field, _, value = line.partition(b": ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            data += value
    if not data:
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ApiError("the agent streams, but not as virtstatd does")
    return name, document
