"""What shows a destination who we are: secrets of files, and tokens that an issuer gives out."""

from __future__ import annotations

import json
import math
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

import aiohttp

from virtstatd.errors import TryLater
from virtstatd.sending.access import Access
from virtstatd.sending.redacted import SHORT, redacted
from virtstatd.sending.secrets import Secret, opened_secret


ISSUER_SECONDS = 5.0
ISSUER_BYTES = 65536
EARLY_SECONDS = 30.0
"""Time before its end at which a token is not used any more, or a tenth of its life."""

UNKNOWN_SECONDS = 300.0
"""The life of a token whose issuer does not say how long it lives."""


class Credentials:
    """The headers of a destination's requests, and the texts that no log may show."""

    def __init__(
        self, access: Access, secrets: Mapping[str, Secret], clock: Callable[[], float]
    ) -> None:
        self._access = access
        self._secrets = secrets
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._ends = 0.0
        self._pairs: dict[str, str] = {}

    async def headers(self) -> dict[str, str]:
        """Return the headers of a request; raise TryLater where there is no token to be had."""
        access = self._access
        found = {**access.headers}
        for header in access.header_files:
            found[header] = await self._read(f"header_files.{header}")
        if access.token_file:
            found["Authorization"] = f"{access.scheme} {await self._read('token_file')}"
        elif access.username:
            password = await self._read("password_file")
            found["Authorization"] = self._basic("password", access.username, password)
        elif access.oauth2_url:
            found["Authorization"] = f"Bearer {await self._issued()}"
        return found

    async def proxy(self) -> dict[str, str]:
        """Return the headers for the proxy."""
        if not self._access.proxy_username:
            return {}
        password = await self._read("proxy_password_file")
        pair = self._basic("proxy", self._access.proxy_username, password)
        return {"Proxy-Authorization": pair}

    def refused(self) -> None:
        """Ask for another token before the next request: this one was refused."""
        self._ends = 0.0

    def hidden(self, text: str) -> str:
        """Return a text that may be logged."""
        access = self._access
        urls = (access.url, access.oauth2_url, access.proxy_url)
        given = [text for url in urls for _, text in parse_qsl(urlsplit(url).query)]
        given += [*access.headers.values(), *access.oauth2_parameters.values()]
        secrets = [each for each in given if len(each) >= SHORT]
        secrets += [each for secret in self._secrets.values() for each in secret.texts]
        return redacted(text, [*secrets, *self._pairs.values(), self._token])

    async def _read(self, option: str) -> str:
        return await self._secrets[option].read()

    def _basic(self, purpose: str, user: str, password: str) -> str:
        pair = f"{user}:{password}"
        self._pairs[purpose] = pair
        return f"Basic {b64encode(pair.encode()).decode()}"

    async def _issued(self) -> str:
        """Return a token that is valid; RFC 6749, section 4.4."""
        if self._clock() < self._ends:
            return self._token
        access = self._access
        if self._session is None:
            raise RuntimeError("the credentials are closed")
        form = {"grant_type": "client_credentials", **access.oauth2_parameters}
        if access.oauth2_scopes:
            form["scope"] = " ".join(access.oauth2_scopes)
        secret = await self._read("oauth2_secret_file")
        client = quote_plus(access.oauth2_client), quote_plus(secret)  # section 2.3.1
        headers = {
            "Authorization": self._basic("oauth2", *client),
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        proxy = await self.proxy()
        if not access.issued_encrypted:
            headers |= proxy  # the request itself is what the proxy reads
        place = urlsplit(access.oauth2_url).netloc
        begun = self._clock()
        try:
            async with self._session.post(
                access.oauth2_url,
                data=urlencode(form),
                headers=headers,
                proxy=access.proxy_url or None,
                proxy_headers=proxy or None,
                allow_redirects=False,
            ) as response:
                text = (await response.content.read(ISSUER_BYTES)).decode("utf-8", "replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise TryLater(f"{place} gives no token: {self.hidden(reason)}") from error
        token, seconds = _token_of(text)
        if not token:
            said = "".join(each if each.isprintable() else " " for each in text)
            raise TryLater(
                f"{place} gives no token, but {response.status}: {self.hidden(said)[:256]}"
            )
        self._token = token
        self._ends = begun + seconds - min(EARLY_SECONDS, seconds / 10)
        return token

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep what asks for tokens open; nothing is connected yet."""
        if not self._access.oauth2_url:
            yield
            return
        context = await self._access.opened_tls(
            tls=self._access.issued_encrypted, clock=self._clock
        )
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=context or True, force_close=True),
            timeout=aiohttp.ClientTimeout(total=ISSUER_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as self._session:
            yield


@asynccontextmanager
async def opened_credentials(
    access: Access, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Credentials]:
    """Yield the credentials of a destination; raise StartError for a file that cannot be used."""
    secrets = {
        option: await opened_secret(name, clock) for option, name in access.secret_files.items()
    }
    found = Credentials(access, secrets, clock)
    async with found.open():
        yield found


def _token_of(text: str) -> tuple[str, float]:
    """Return an issuer's token and its life in seconds, an empty one for any other answer."""
    try:
        answer = json.loads(text)
        token = answer["access_token"]
        seconds = float(answer.get("expires_in", UNKNOWN_SECONDS))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return "", 0.0
    if not math.isfinite(seconds) or seconds < 0:
        seconds = UNKNOWN_SECONDS
    return (token, seconds) if isinstance(token, str) and token.isprintable() else ("", 0.0)
