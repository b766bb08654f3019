"""Who may see what."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from virtstatd.serving.access import PAUSE_SECONDS, WAITING, WebAccess
from virtstatd.serving.http import Request
from virtstatd.serving.listener import ANY_CERTIFICATE
from virtstatd.serving.settings import Settings
from virtstatd.testing import FakeClock


USERS = Settings(users={"ann": "hash-a", "bob": "hash-b"})
TOKENS = Settings(tokens={"scraper": "t0ken"})
ACCEPTS = Settings(users={"ann": "hash-a"}, certificates="accept", enough=True)
REQUIRES = Settings(certificates="require")


class Guarded:
    """An access whose passwords are looked at by the test."""

    def __init__(self, paths: dict[str, tuple[str, ...]]) -> None:
        self.clock = FakeClock()
        self.looks: list[tuple[str, str]] = []
        self.go = threading.Event()
        self.go.set()
        self.access = WebAccess(paths, self.clock, self._check)

    def _check(self, password: str, hashed: str) -> bool:
        self.looks.append((password, hashed))
        assert self.go.wait(100)
        return hashed == f"hash-{password}"

    async def ask(
        self,
        settings: Settings,
        login: str = "",
        path: str = "/metrics",
        peer: str = "192.0.2.1",
        names: frozenset[str] = frozenset(),
    ) -> int:
        """Return the status of the answer, 200 where nothing stands against one."""
        headers = {"authorization": login} if login else {}
        request = Request("GET", path, headers, keep=True, peer=peer, names=names)
        refusal = await self.access.refusal(request, settings)
        return refusal.status.value if refusal else 200


@asynccontextmanager
async def guarded(**paths: tuple[str, ...]) -> AsyncIterator[Guarded]:
    """Make an access to paths, each by its name without the slash."""
    it = Guarded({f"/{name}".replace("_", "/"): who for name, who in paths.items()})
    try:
        yield it
    finally:
        it.go.set()
        it.access.close()


def basic(user: str, password: str) -> str:
    """Return what a browser sends for a user."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def certificate(*names: str) -> frozenset[str]:
    """Return what is known of a client that has shown a certificate."""
    return frozenset({*names, ANY_CERTIFICATE})


async def test_without_users_everybody_is_let_in():
    """Where nothing is configured nobody is asked."""
    async with guarded() as it:
        assert await it.ask(Settings()) == 200


@pytest.mark.parametrize(
    ("login", "status"),
    [
        (basic("ann", "a"), 200),
        (basic("bob", "b"), 200),
        (basic("ann", "b"), 401),
        (basic("joe", "a"), 401),
        ("", 401),
        ("Basic ?", 401),
        ("Basic YW5u", 401),
        ("Basic /w==", 401),
        ("Bearer a", 401),
        ("Digest a", 401),
    ],
)
async def test_users(login: str, status: int):
    """A user with the right password is let in, nobody else, however broken the header."""
    async with guarded() as it:
        assert await it.ask(USERS, login) == status


@pytest.mark.parametrize(
    ("login", "status"),
    [("Bearer t0ken", 200), ("bearer  t0ken ", 200), ("Bearer x", 401), ("Bearer ", 401)],
)
async def test_tokens(login: str, status: int):
    """A token that is known is let in."""
    async with guarded() as it:
        assert await it.ask(TOKENS, login) == status


@pytest.mark.parametrize(
    ("settings", "names", "login", "status"),
    [
        (ACCEPTS, certificate("cn"), "", 200),
        (ACCEPTS, frozenset(), basic("ann", "a"), 200),
        (ACCEPTS, frozenset(), "", 401),
        (REQUIRES, certificate("cn"), "", 200),
        (REQUIRES, frozenset(), "", 403),
        (Settings(certificates="accept", enough=True), frozenset(), "", 403),
        (Settings(users={"ann": "hash-a"}, certificates="require"), certificate("c"), "", 401),
        (
            Settings(certificates="require", allowed_names=frozenset({"cn"})),
            certificate("cn"),
            "",
            200,
        ),
        (
            Settings(certificates="require", allowed_names=frozenset({"cn"})),
            certificate("x"),
            "",
            403,
        ),
    ],
)
async def test_certificates(settings: Settings, names: frozenset[str], login: str, status: int):
    """A certificate stands in for a login where it is accepted, and comes on top where required."""
    async with guarded() as it:
        assert await it.ask(settings, login, names=names) == status


@pytest.mark.parametrize(
    ("path", "login", "status"),
    [
        ("/metrics", "", 200),
        ("/metrics/x", "", 200),
        ("/metricsx", "", 401),
        ("/api", basic("ann", "a"), 200),
        ("/api/x", basic("bob", "b"), 403),
        ("/api/open", basic("bob", "b"), 200),
        ("/other", basic("bob", "b"), 200),
    ],
)
async def test_access_by_path(path: str, login: str, status: int):
    """The longest entry that a path is below says who may see it; others need any login."""
    paths = {"metrics": ("*",), "api": ("ann",), "api_open": ("bob",)}
    async with guarded(**paths) as it:
        assert await it.ask(USERS, login, path) == status


async def test_a_password_is_looked_at_once():
    """What was right once needs no second look; another hash of the same user does."""
    async with guarded() as it:
        for _ in range(3):
            assert await it.ask(USERS, basic("ann", "a")) == 200
        assert it.looks == [("a", "hash-a")]
        changed = Settings(users={"ann": "hash-x"})
        assert await it.ask(changed, basic("ann", "a")) == 401


async def test_a_user_who_does_not_exist_takes_as_long():
    """For an unknown name a password is looked at as well, and the answer is the same."""
    async with guarded() as it:
        assert await it.ask(USERS, basic("joe", "a")) == 401
        assert it.looks == [("a", "hash-a")]


async def test_guessing_is_slow_for_who_guesses_alone():
    """After a wrong password its client waits; others, and those known already, do not."""
    async with guarded() as it:
        assert await it.ask(USERS, basic("ann", "a"), peer="192.0.2.9") == 200
        assert await it.ask(USERS, basic("ann", "x")) == 401
        for _ in range(5):
            assert await it.ask(USERS, basic("ann", "y")) == 429
        assert await it.ask(USERS, basic("ann", "a")) == 200
        assert await it.ask(USERS, basic("bob", "b"), peer="192.0.2.2") == 200
        assert len(it.looks) == 3
        await it.clock.advance(PAUSE_SECONDS)
        assert await it.ask(USERS, basic("bob", "y")) == 401


async def test_many_at_once_are_one_look_or_turned_away():
    """The same login at once is looked at once, and of different ones only so many wait."""
    async with guarded() as it, asyncio.timeout(100):
        it.go.clear()
        same = [asyncio.create_task(it.ask(USERS, basic("ann", "a"))) for _ in range(50)]
        others = [
            asyncio.create_task(it.ask(USERS, basic("ann", f"{each}"), peer=f"192.0.2.{each}"))
            for each in range(50)
        ]
        await asyncio.sleep(0)
        it.go.set()
        assert {await each for each in same} == {200}
        answers = [await each for each in others]
        assert answers.count(401) == WAITING - 1
        assert answers.count(429) == 50 - (WAITING - 1)
        assert len(it.looks) == WAITING
