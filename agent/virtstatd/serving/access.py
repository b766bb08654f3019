"""Who may see a path: users with passwords, tokens, and certificates."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from virtstatd.runtime.worker import Worker
from virtstatd.serving.http import Request, Response, text_response
from virtstatd.serving.listener import ANY_CERTIFICATE, client_of
from virtstatd.serving.options import EVERYBODY
from virtstatd.serving.passwords import matches
from virtstatd.serving.settings import Settings


REMEMBERED: Final = 256
"""Logins that need no second look at the password."""

WAITING: Final = 16
"""Passwords that wait to be looked at; each takes a tenth of a second of a thread."""

PAUSE_SECONDS: Final = 1.0
"""How long a client waits after a wrong password before the next is looked at."""

LOG_IN: Final = {"WWW-Authenticate": 'Basic realm="virtstatd", charset="UTF-8"'}


class WebAccess:
    """Finds out who asks, and whether the path is for them."""

    def __init__(
        self,
        paths: Mapping[str, tuple[str, ...]],
        clock: Callable[[], float],
        check: Callable[[str, str], bool] = matches,
    ) -> None:
        self._paths = paths
        self._clock = clock
        self._check = check
        self._key = os.urandom(32)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._pauses: OrderedDict[str, float] = OrderedDict()
        self._worker: Worker | None = None
        self._looking: dict[bytes, asyncio.Future[None]] = {}

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._worker is not None:
            self._worker.close()

    async def refusal(self, request: Request, settings: Settings) -> Response | None:
        """Return why a request is not answered, None where it may be."""
        allowed = self._allowed(request.path)
        if not settings.authenticated or (allowed is not None and EVERYBODY in allowed):
            return None
        names = request.names
        if settings.allowed_names and not settings.allowed_names & names:
            return text_response("This certificate is not allowed here.", HTTPStatus.FORBIDDEN)
        shown = ANY_CERTIFICATE in names
        if settings.login and not (settings.enough and shown):
            who = await self._logged_in(request, settings)
            if isinstance(who, Response):
                return who
            names |= {who}
        elif not shown:
            return text_response("Show a certificate.", HTTPStatus.FORBIDDEN)
        if allowed is None or names & allowed:
            return None
        return text_response("This path is for others.", HTTPStatus.FORBIDDEN)

    def _allowed(self, path: str) -> frozenset[str] | None:
        """Return who may see a path, None for all who log in; the longest entry counts."""
        fits = [
            each for each in self._paths if path == each or path.startswith(each.rstrip("/") + "/")
        ]
        return frozenset(self._paths[max(fits, key=len)]) if fits else None

    async def _logged_in(self, request: Request, settings: Settings) -> str | Response:
        """Return the name of who asks, or what is answered instead."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip()
        if scheme.lower() == "bearer":
            found = [
                name
                for name, token in settings.tokens.items()
                if hmac.compare_digest(_digest(token), _digest(given))
            ]
            if found:
                return found[0]
        elif scheme.lower() == "basic" and settings.users:
            try:
                text = base64.b64decode(given, validate=True).decode()
            except ValueError:
                text = ""
            user, colon, password = text.partition(":")
            if colon:
                return await self._user(client_of(request.peer), user, password, settings)
        wants = LOG_IN if settings.users else {"WWW-Authenticate": 'Bearer realm="virtstatd"'}
        return text_response("Log in.", HTTPStatus.UNAUTHORIZED, wants)

    async def _user(
        self, client: str, user: str, password: str, settings: Settings
    ) -> str | Response:
        hashed = settings.users.get(user)
        # a user who does not exist takes as long as one who does
        looked_at = hashed or next(iter(settings.users.values()))
        proof = hashlib.blake2b(f"{user}\0{looked_at}\0{password}".encode(), key=self._key).digest()
        if proof in self._known:
            self._known.move_to_end(proof)
            return user
        if self._clock() < self._pauses.get(client, 0.0) or len(self._looking) >= WAITING:
            wait = {"Retry-After": "1"}
            return text_response("Too many logins.", HTTPStatus.TOO_MANY_REQUESTS, wait)
        if await self._right(proof, password, looked_at) and hashed is not None:
            self._known[proof] = None
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return user
        self._pauses[client] = self._clock() + PAUSE_SECONDS
        self._pauses.move_to_end(client)
        while len(self._pauses) > REMEMBERED:
            self._pauses.popitem(last=False)
        return text_response("Log in.", HTTPStatus.UNAUTHORIZED, LOG_IN)

    async def _right(self, proof: bytes, password: str, hashed: str) -> bool:
        """Look at a password on a thread; those who ask the same at once wait for one look."""
        looking = self._looking.get(proof)
        if looking is None:
            if self._worker is None:
                self._worker = Worker("web logins")

            def look() -> None:
                if not self._check(password, hashed):
                    raise PermissionError

            looking = self._looking[proof] = self._worker.submit(look)
            looking.add_done_callback(lambda _: self._looking.pop(proof, None))
        await asyncio.wait([looking])
        return looking.exception() is None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
