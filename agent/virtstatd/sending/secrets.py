"""Files that options name: paths, systemd credentials and secrets; options hold no secret."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from virtstatd.errors import StartError


CREDENTIAL = "credential:"
SECRET_BYTES = 4096

FILE = f"a path, or `{CREDENTIAL}` and the name of a systemd credential"
"""The end of the description of every option that names a file."""

READ = "the agent's user must read it, or systemd hand it over (`LoadCredential=`)"

_NAME = re.compile(r"[A-Za-z0-9_.@-]+")

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
    """The one line of a file, empty for no file; while unreadable, the line read last."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._text = secret(name)

    def read(self) -> str:
        """Read the file again, since secrets are replaced while the agent runs."""
        with suppress(StartError):
            self._text = secret(self._name)
        return self._text


def path_of(name: str) -> Path:
    """Return the path that an option means; raise StartError when systemd passed no credential."""
    if not name.startswith(CREDENTIAL):
        return Path(name)
    credential = name.removeprefix(CREDENTIAL)
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory or not _NAME.fullmatch(credential) or credential in (".", ".."):
        raise StartError(f"there is no {name}; add LoadCredential= for it to the unit")
    return Path(directory) / credential


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


def check_credentials(option: str, name: str, holding: bytes) -> None:
    """Raise StartError that begins with the option when a file, if any, is not of its kind."""
    if not name:
        return
    try:
        with path_of(name).open("rb") as file:
            text = file.read(16 * SECRET_BYTES)
    except StartError as error:
        raise StartError(f"{option}: {error}") from error
    except OSError as error:
        raise StartError(f"{option}: cannot read {name}: {error.strerror}; {READ}") from error
    if holding not in text:
        raise StartError(f"{option}: {name} has no line with {holding.decode()}")
