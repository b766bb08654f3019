"""
The HTTP client of the sinks that push: TLS, credentials, and what each status means to an outlet.

| answer | raised |
|---|---|
| none: network error, timeout | `TryLater` |
| 408, 429, 5xx but 501 and 505 | `TryLater`, with what Retry-After said; 5xx are `answered` |
| 413 | `TooLarge`: the outlet halves the request |
| 401, 403, 404, 405, 407, 410, redirects | `Denied` |
| 400, 422 | `Rejected`, of which a part may be to blame (`atomic`) |
| anything else but 2xx | `Rejected` |

Answers are bounded: 64 KiB are read within two seconds, and nothing is decompressed.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp

from virtstatd import __version__
from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.sending.access import Access
from virtstatd.sending.credentials import Credentials, opened_credentials
from virtstatd.sending.tls import Context


CONNECT_SECONDS = 3.0
LANES = 8
"""Requests that one sink may have under way at once."""

BODY_SECONDS = 2.0
"""Bound for reading a body: the status decides, the body only adds text to the log."""

BODY_BYTES = 65536
READ_BYTES = 16384
SHOWN_BYTES = 256

_LATER = frozenset(range(500, 600)) - {501, 505} | {408, 429}
_DENIED = frozenset({401, 403, 404, 405, 407, 410, *range(300, 400)})
_ATOMIC = frozenset({400, 422})
_CONTROL = re.compile(r"[^\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status, headers and the first 64 KiB of a body; `fault` is None for 2xx."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    fault: TryLater | Rejected | None


class HttpClient:
    """One destination that is posted to."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        access: Access,
        credentials: Credentials,
        context: Context | None,
    ) -> None:
        self._session = session
        self._place = access.place
        self._proxy = access.proxy_url or None
        self._credentials = credentials
        self._context = context

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """
        Post, and return the first 64 KiB of the answer to a request that was accepted.

        Raises as in the table above.
        """
        answer = await self.ask(url, body, headers)
        if answer.fault:
            raise answer.fault
        return answer.body

    async def ask(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        """Post, and return the answer of any status; raise TryLater when there is none."""
        credentials = self._credentials
        proxy = await credentials.proxy()
        # without TLS the request itself is what the proxy reads
        every = {**await credentials.headers(), **headers, **({} if self._context else proxy)}
        if self._context:
            await self._context.renewed()
        try:
            response = await self._session.post(
                url,
                data=io.BytesIO(body),
                headers=every,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=proxy or None,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = credentials.hidden(_reason(error))
            raise TryLater(f"{self._place}: {_line(reason)}") from error
        try:
            text = await _read(response)
        finally:
            response.release()  # closes the connection when there is more to read
        if response.status == HTTPStatus.UNAUTHORIZED:
            credentials.refused()
        return HttpAnswer(response.status, response.headers, text, self._fault(response, text))

    def _fault(self, response: aiohttp.ClientResponse, text: bytes) -> TryLater | Rejected | None:
        if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            return None
        said = sanitised(text, self._credentials.hidden)
        reason = f"{self._place} answers {response.status}" + (f": {said}" if said else "")
        if response.status in _LATER:
            wait = retry_after(response.headers.get("Retry-After", ""))
            answered = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            return TryLater(reason, wait, answered=answered)
        if response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return TooLarge(reason)
        if response.status in _DENIED:
            return Denied(reason)
        return Rejected(reason, atomic=response.status in _ATOMIC)


@asynccontextmanager
async def http_client(
    access: Access, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[HttpClient]:
    """Yield a client; raise StartError for files that cannot be read. Nothing is connected yet."""
    context = await access.opened_tls(tls=access.encrypted, clock=clock)
    async with (
        opened_credentials(access, clock) as credentials,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=LANES, ssl=context or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"virtstatd/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        ) as session,
    ):
        yield HttpClient(session, access, credentials, context)


def sanitised(text: bytes, hidden: Callable[[str], str]) -> str:
    """Return the beginning of an answer as one harmless line; `hidden` takes out our secrets."""
    line = hidden(text[:READ_BYTES].decode("utf-8", "replace"))
    return _line(line).strip()


def retry_after(text: str) -> float | None:
    """Return the seconds that a Retry-After header asks for, None when it makes no sense."""
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,18}", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _reason(error: BaseException) -> str:
    """Return the cause of a network error in one line."""
    if isinstance(error, TimeoutError):
        return "no connection in time"
    text = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(
        error, aiohttp.ClientSSLError
    ):
        # aiohttp's text repeats the place, and names SSL where there is none
        cause = error.os_error
        number = cause.errno or 0
        text = os.strerror(number) if number > 0 else cause.strerror or text
    return text


def _line(text: str) -> str:
    return _CONTROL.sub(" ", text)[:SHOWN_BYTES]


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read a body within bounds of size and time."""
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while size < BODY_BYTES and (piece := await response.content.readany()):
                pieces.append(piece)
                size += len(piece)
    except (aiohttp.ClientError, TimeoutError, OSError):
        response.close()  # the status is known, the rest will not come
    if size >= BODY_BYTES:
        response.close()
    return b"".join(pieces)[:BODY_BYTES]
