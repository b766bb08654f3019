"""Secrets of sinks, which files hold and options name; options hold no secret."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from virtstatd.errors import StartError
from virtstatd.sending.paths import FILE, path_of
from virtstatd.sending.redacted import SHORT, redacted
from virtstatd.sending.watched import Watched


SECRET_BYTES = 4096
CREDENTIALS_BYTES = 65536

READ = "the agent's user must read it, or systemd hand it over (`LoadCredential=`)"

PasswordFile = Annotated[str, Meta(description=f"File of the user's password: {FILE}.")]


@dataclass(frozen=True, kw_only=True)
class Login:
    """The options of a sink that has a user."""

    username: Annotated[str, Meta(description="User name, where the server wants one.")] = ""
    password_file: PasswordFile = ""

    def check_password(self) -> None:
        """Raise StartError when the password cannot be read."""
        check_secret("password_file", self.password_file)

    def check_login(self) -> None:
        """Raise ValueError when only one of user name and password is given."""
        if bool(self.username) != bool(self.password_file):
            raise ValueError("password_file: username and password_file go together")


class Secret:
    """
    The one line of a file, empty for no file; while unreadable, the line read last.

    It is read off the event loop, and only when the file has changed. That is looked at once a
    second at most, or `at_once`, as for a new connection.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], float] = time.monotonic,
        reading: Callable[[], str] | None = None,
    ) -> None:
        """Take what reads a file of several lines, where the secret is no single one."""
        make = reading or (lambda: secret(name))
        self._watched = Watched((name,), make, clock) if name else None
        self.texts: tuple[str, ...] = ()
        """What was read last and before: a server may still send back the one before."""

    async def first(self) -> str:
        """Return the line at the start; raise StartError for a file that cannot be used."""
        return self._kept(await self._watched.first()) if self._watched else ""

    async def read(self, *, at_once: bool = False) -> str:
        """Return the line, read again if it was replaced."""
        return self._kept(await self._watched.get(at_once=at_once)) if self._watched else ""

    def hidden(self, text: str) -> str:
        """Return a text that may be logged."""
        return redacted(text, [line for each in self.texts for line in _lines(each)])

    def _kept(self, text: str) -> str:
        if text not in self.texts:
            self.texts = (text, *self.texts[:1])
        return text


def _lines(text: str) -> list[str]:
    """Return what must not be shown of a secret: of several lines those that may be one."""
    if "\n" not in text:
        return [text]
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if len(line) >= SHORT and not line.startswith("-")]


async def opened_secret(name: str, clock: Callable[[], float] = time.monotonic) -> Secret:
    """Return the secret of a file; raise StartError for a file that cannot be used."""
    found = Secret(name, clock)
    await found.first()
    return found


def secret(name: str) -> str:
    """Return the one line that a file holds, nothing for no file; StartError names the file."""
    if not name:
        return ""
    path = path_of(name)
    try:
        with path.open("rb") as file:
            text = file.read(SECRET_BYTES + 1).decode().strip()
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "is not text"
        raise StartError(f"cannot read {path}: {cause}; {READ}") from error
    if not text or not text.isprintable() or len(text) > SECRET_BYTES:
        raise StartError(f"{path} must hold one line of text")
    return text


def check_secret(option: str, name: str) -> None:
    """Raise StartError that begins with the option when a secret cannot be read."""
    try:
        secret(name)
    except StartError as error:
        raise StartError(f"{option}: {error}") from error


def credentials_text(option: str, name: str, holding: str) -> str:
    """Return a file of several lines; raise StartError when it is not of its kind."""
    path = path_of(name)
    try:
        with path.open("rb") as file:
            text = file.read(CREDENTIALS_BYTES).decode()
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "is not text"
        raise StartError(f"{option}: cannot read {name}: {cause}; {READ}") from error
    if holding not in text:
        raise StartError(f"{option}: {name} has no line with {holding}")
    return text
