"""
The HTTP client of the sinks that push: TLS, credentials, and what each status means to an outlet.

| answer | raised |
|---|---|
| network error, timeout, 408, 429, 5xx but 501 and 505 | `TryLater`, with what Retry-After said |
| 413 | `TooLarge`: `Portions` halves the request |
| 401, 403, 404 | `Rejected`, and for 30 s `TryLater` without asking: trying costs a batch |
| anything else but 2xx, redirects included | `Rejected` |

No answer can hurt: 64 KiB of it are read, nothing is decompressed, and a body that drips is left.
"""

from __future__ import annotations

import asyncio
import io
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import aiohttp
from msgspec import Meta

from virtstatd import __version__
from virtstatd.errors import Rejected, StartError, TryLater
from virtstatd.model import Batch
from virtstatd.sinks.secrets import check_files, check_pair, secret, tls_context


CONNECT_SECONDS = 3.0
BODY_SECONDS = 2.0
"""The status has said it all; the body is read for its text and to keep the connection."""

BODY_BYTES = 65536
SHOWN_BYTES = 256
REFUSED_SECONDS = 30.0

TokenFile = Annotated[
    str,
    Meta(
        description="File of the token: a path, or `credential:` and a systemd credential's name."
    ),
]
Headers = Annotated[
    dict[str, str], Meta(description="Headers on every request, such as a tenant's; no secrets.")
]

T = TypeVar("T")

_LATER = frozenset(range(500, 600)) - {501, 505} | {408, 429}
_REFUSED = frozenset({401, 403, 404})
_CONTROL = re.compile(r"[^\x20-\x7e]+")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class TooLarge(Rejected):
    """The destination takes no request of this size; it may take the halves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where to, and by which rights; faults are told as ValueError when it is made."""

    url: str
    token_file: str = ""
    scheme: str = "Bearer"
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_url(self.url, ("http", "https"))
        check_pair(self.username, self.password_file)
        if self.token_file and self.username:
            raise ValueError("token_file: cannot go together with username")
        check_files(
            tls=self.url.startswith("https:"),
            ca_file=self.ca_file,
            certificate_file=self.certificate_file,
            key_file=self.key_file,
        )
        for header, value in self.headers.items():
            if not _HEADER.fullmatch(header) or _CONTROL.search(value):
                raise ValueError("headers: a name or a value is not fit for HTTP")
            if header.lower() in ("authorization", "cookie"):
                raise ValueError("headers: secrets belong into token_file or password_file")

    @property
    def secret_file(self) -> str:
        """The file of what the server must be told, empty for none."""
        return self.token_file or self.password_file


def check_url(url: str, schemes: Sequence[str]) -> None:
    """Raise ValueError for what is no URL of these schemes, or holds a password."""
    try:
        parts = urlsplit(url)
        host = parts.hostname and parts.port != 0
    except ValueError:
        host = False
    if not host or parts.scheme not in schemes or _CONTROL.search(url) or " " in url:
        raise ValueError(f"url: must begin with {' or '.join(f'{each}://' for each in schemes)}")
    if "@" in parts.netloc:
        raise ValueError("url: a user or password belongs into username and password_file")


class Client:
    """One destination that is posted to."""

    def __init__(
        self, session: aiohttp.ClientSession, access: Access, clock: Callable[[], float]
    ) -> None:
        self._session = session
        self._access = access
        self._clock = clock
        self._place = urlsplit(access.url).netloc
        self._secret = secret(access.secret_file)
        self._refused_until = 0.0

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """
        Post, and return the first 64 KiB of the answer to a request that was accepted.

        Raises TryLater, Rejected or TooLarge as the table above has it.
        """
        if (wait := self._refused_until - self._clock()) > 0:
            raise TryLater(f"{self._place} has refused the credentials or the path", wait)
        every = {**self._access.headers, **headers, **_authorization(self._access, self._secret)}
        try:
            response = await self._session.post(
                url, data=io.BytesIO(body), headers=every, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TryLater(f"{self._place}: {_reason(error)}") from error
        try:
            answer = await _read(response)
            if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                return answer
            raise self._fault(response, answer)
        finally:
            response.release()  # closes the connection when there is more to read

    def _fault(self, response: aiohttp.ClientResponse, answer: bytes) -> TryLater | Rejected:
        said = self._sanitised(answer)
        reason = f"{self._place} answers {response.status}" + (f": {said}" if said else "")
        if response.status in _LATER:
            return TryLater(reason, retry_after(response.headers.get("Retry-After", "")))
        if response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return TooLarge(reason)
        if response.status in _REFUSED:
            self._refused_until = self._clock() + REFUSED_SECONDS
            try:
                self._secret = secret(self._access.secret_file)  # it may have been replaced
            except StartError as error:
                reason += f"; {error}"
        return Rejected(reason)

    def _sanitised(self, answer: bytes) -> str:
        """Return the beginning of an answer as one harmless line, without our own secret."""
        text = answer[: 4 * SHOWN_BYTES].decode("utf-8", "replace")
        if self._secret:
            text = text.replace(self._secret, "(secret)")
        return _CONTROL.sub(" ", text)[:SHOWN_BYTES].strip()


@asynccontextmanager
async def connected(
    access: Access, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Client]:
    """Yield a client; raise StartError for files that cannot be read. Nothing is connected yet."""
    context = await asyncio.to_thread(
        tls_context,
        tls=access.url.startswith("https:"),
        ca_file=access.ca_file,
        certificate_file=access.certificate_file,
        key_file=access.key_file,
    )
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=2, ssl=context or True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"virtstatd/{__version__}", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    ) as session:
        yield Client(session, access, clock)


class Portions:
    """
    Cut batches into requests that the destination takes; a 413 halves them for good.

    A batch that was interrupted goes on where it was, so that one which needs more time than
    an attempt has gets through as well.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._underway: object = None
        self._done = 0
        self._rejected: Rejected | None = None

    async def send(
        self,
        batch: Batch,
        items: Sequence[tuple[int, Callable[[], T]]],
        join: Callable[[list[T]], bytes],
        post: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """
        Encode, join and post one request after the other; the same batch must make equal items.

        Each item is its number of samples, and what encodes it when its request is made. A request
        that is rejected takes none of the others with it; the last fault is raised at the end.
        TryLater is raised at once.
        """
        identity = batch.source, batch.taken_at, batch.samples, len(items)
        if self._underway != identity:
            self._underway, self._done, self._rejected = identity, 0, None
        counts = [count for count, _ in items]
        while self._done < len(items):
            start = self._done
            end, samples = self._cut(counts, start)
            body = join([encode() for _, encode in items[start:end]])
            try:
                await post(body)
            except TooLarge as fault:
                if end - start > 1:
                    self.samples = max(1, samples // 2)
                    continue
                self._rejected = fault
            except Rejected as fault:
                self._rejected = fault
            self._done = end
        rejected, self._underway, self._rejected = self._rejected, None, None
        if rejected is not None:
            raise rejected

    def _cut(self, counts: Sequence[int], start: int) -> tuple[int, int]:
        samples = counts[start]
        end = start + 1
        while end < len(counts) and samples + counts[end] <= self.samples:
            samples += counts[end]
            end += 1
        return end, samples


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


def _authorization(access: Access, text: str) -> dict[str, str]:
    if access.token_file:
        return {"Authorization": f"{access.scheme} {text}"}
    if access.username:
        pair = b64encode(f"{access.username}:{text}".encode())
        return {"Authorization": f"Basic {pair.decode()}"}
    return {}


def _reason(error: BaseException) -> str:
    """Return what went wrong in one line."""
    if isinstance(error, TimeoutError):
        return "no connection in time"
    text = str(error) or type(error).__name__
    return _CONTROL.sub(" ", text)[:SHOWN_BYTES]


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read what the body has to say, within bounds of size and time."""
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
