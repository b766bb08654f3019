"""One HTTP/2 connection of a client that sends one request at a time."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error


ANSWER_BYTES = 65536
PROTOCOL = "h2"
ANOTHER = "the server does not support HTTP/2"

FRAME_BYTES = 16384
"""Most bytes in a frame: what both sides keep to as long as neither asks for more."""

_HEAD_BYTES = 9
_GOAWAY = 7
_LAST_STREAM = 0x7FFFFFFF
_SHOWN_BYTES = 64

Headers = Sequence[tuple[str, str]]


@dataclass(slots=True)
class Http2Answer:
    """What has come back so far: headers and trailers together, and the body."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False


class NotProcessed(ConnectionResetError):  # noqa: N818 - what became of the request
    """The server has left this request unread, and says so: it may be sent again at once."""


class Frames:
    """Whole frames of what has come, which may be a part of one or several."""

    def __init__(self) -> None:
        self._rest = b""

    def of(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield kind and bytes of each frame; raise ValueError for one that is too large."""
        data = self._rest + data
        place = 0
        while len(data) - place >= _HEAD_BYTES:
            size = int.from_bytes(data[place : place + 3])
            if size > FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes")
            end = place + _HEAD_BYTES + size
            if end > len(data):
                break
            yield data[place + 3], data[place:end]
            place = end
        self._rest = data[place:]


class Http2Connection(asyncio.Protocol):
    """
    Send requests and return their answers; everything that goes wrong is an OSError.

    After an error or a cancel the connection cannot be used again and must be closed. A server that
    leaves (GOAWAY) finishes the request that is under way, and gets no other. The library would
    give up all streams then (python-hyper/h2#1181), so it never sees such a frame.
    """

    def __init__(self) -> None:
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._transport: asyncio.Transport | None = None
        self._stream = 0
        self._answer = Http2Answer()
        self._frames = Frames()
        self._lost: OSError | None = None
        self._leaves: str | None = None
        self._paused = False
        self._changed = asyncio.Event()

    @property
    def alive(self) -> bool:
        """Whether the connection can be used."""
        return self._lost is None and self._leaves is None

    async def ask(self, headers: Headers, body: bytes) -> Http2Answer:
        """Send a request, as fast as the server takes it, and return the whole answer."""
        self._answer = answer = Http2Answer()
        self._stream = self._http.get_next_available_stream_id()
        try:
            self._http.send_headers(self._stream, headers)
            rest = memoryview(body)
            while rest and not answer.ended:
                window = self._http.local_flow_control_window(self._stream)
                size = min(window, self._http.max_outbound_frame_size, len(rest))
                if size > 0 and not self._paused:
                    self._http.send_data(self._stream, rest[:size], end_stream=size == len(rest))
                    rest = rest[size:]
                    self._flush()
                else:
                    await self._change()
        except H2Error as error:
            raise self._fault(error) from error
        while not answer.ended:
            await self._change()
        if rest:  # answered before all of it was sent: the rest is not read
            self._lose(ConnectionAbortedError("the server did not read the request"))
        return answer

    def close(self) -> None:
        """Cut the connection."""
        self._lose(ConnectionAbortedError("the connection was closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the protocol, or refuse to."""
        self._transport = cast("asyncio.Transport", transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != PROTOCOL:
            self._lose(ConnectionAbortedError(ANOTHER))
            return
        self._http.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take in what has come."""
        if self._lost is not None:
            return
        if data.startswith(b"HTTP/1"):  # no frame begins so; the library would wait for its end
            self._lose(ConnectionAbortedError(ANOTHER))
            return
        try:
            for kind, frame in self._frames.of(data):
                if kind == _GOAWAY:
                    self._leave(frame[_HEAD_BYTES:])
                    continue
                for event in self._http.receive_data(frame):
                    self._take(event)
            self._flush()
        except (H2Error, ValueError) as error:
            self._lose(self._fault(error))
        self._changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Note the loss and wake the waiting call."""
        if self._leaves is not None:
            self._lose(ConnectionResetError(self._leaves))
        self._lose(error if isinstance(error, OSError) else ConnectionResetError("disconnected"))

    def pause_writing(self) -> None:
        """Wait for the buffers to empty."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        self._changed.set()

    def _take(self, event: Event) -> None:
        match event:
            case ResponseReceived() | TrailersReceived() if event.stream_id == self._stream:
                for name, text in event.headers:
                    self._answer.headers[_text(name)] = _text(text)
            case DataReceived():
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if event.stream_id == self._stream:
                    self._answer.body += event.data
                if len(self._answer.body) > ANSWER_BYTES:
                    self._lose(ConnectionAbortedError("the answer has no end"))
            case StreamEnded() if event.stream_id == self._stream:
                self._answer.ended = True
            case StreamReset() if event.stream_id == self._stream:
                refused = event.error_code == ErrorCodes.REFUSED_STREAM
                kind = NotProcessed if refused else ConnectionResetError
                self._lose(kind(f"the stream was reset: {_name(event.error_code)}"))

    def _leave(self, payload: bytes) -> None:
        """Take in a GOAWAY: which streams the server still answers, and why it leaves."""
        if len(payload) < 2 * 4:
            raise ValueError("a short GOAWAY")
        last, code = struct.unpack_from(">II", payload)
        said = "".join(chr(each) if 0x20 <= each < 0x7F else " " for each in payload[8:])  # noqa: PLR2004 - ASCII
        self._leaves = f"the server leaves: {_name(_code(code))} {said[:_SHOWN_BYTES]}".strip()
        if self._stream > last & _LAST_STREAM and not self._answer.ended:
            self._lose(NotProcessed(self._leaves))

    def _fault(self, error: Exception) -> OSError:
        return self._lost or ConnectionAbortedError(f"{ANOTHER}: {error}")

    def _flush(self) -> None:
        if self._transport is not None and self._lost is None:
            self._transport.write(self._http.data_to_send())

    def _lose(self, error: OSError) -> None:
        if self._lost is None:
            self._lost = error
        if self._transport is not None:
            self._transport.abort()
        self._changed.set()

    async def _change(self) -> None:
        """Wait for something to happen; raise what was lost before there was an answer."""
        if self._lost is None:
            self._flush()
            self._changed.clear()
            await self._changed.wait()
        if self._lost is not None and not self._answer.ended:
            raise self._lost


def _text(text: bytes | str) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


def _code(number: int) -> ErrorCodes | int:
    return ErrorCodes(number) if number in set(ErrorCodes) else number


def _name(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else f"code {code}"
