"""Options of the commands that ask a running agent: where it is, and who asks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from virtstatd.commands.api import Endpoint, basic, bearer, configured, url_of_host


CONFIGURATION: Final = Path("/etc/virtstatd/virtstatd.toml")

_FILE = click.Path(exists=True, dir_okay=False)


def agent_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets `endpoint`, and the configuration as `path`."""

    @click.option(
        "--config",
        "path",
        type=click.Path(path_type=Path),
        help=f"Configuration file of the agent, for its address; without it {CONFIGURATION}.",
    )
    @click.option("--url", help="Address of the agent: http://, https:// or unix:/path.")
    @click.option("--host", help="Agent of another host: NAME or NAME:PORT.")
    @click.option("--user", help="User to log in as; its password is prompted for.")
    @click.option("--password-file", type=_FILE, help="File of the user's password.")
    @click.option("--token-file", type=_FILE, help="File of a bearer token.")
    @click.option("--ca-file", type=_FILE, help="Authority of the agent's certificate.")
    @click.option("--certificate-file", type=_FILE, help="Certificate to show.")
    @click.option("--key-file", type=_FILE, help="Key of that certificate.")
    @functools.wraps(command)
    def with_endpoint(
        path: Path | None,
        url: str | None,
        host: str | None,
        user: str | None,
        password_file: str | None,
        token_file: str | None,
        ca_file: str | None,
        certificate_file: str | None,
        key_file: str | None,
        **more: Any,
    ) -> Any:
        if url and host:
            raise click.UsageError("name the agent once, by --url or by --host")
        endpoint = configured(path or CONFIGURATION)
        if url or host:
            endpoint = Endpoint(url or url_of_host(host or ""))
        authorization = ""
        if token_file:
            authorization = bearer(_secret(token_file))
        elif user:
            password = _secret(password_file) if password_file else _asked(user)
            authorization = basic(user, password)
        endpoint = replace(
            endpoint,
            authorization=authorization,
            ca_file=ca_file or endpoint.ca_file,
            pinned=endpoint.pinned and not ca_file,
            certificate_file=certificate_file or "",
            key_file=key_file or "",
        )
        return command(endpoint=endpoint, path=path, elsewhere=bool(url or host), **more)

    return with_endpoint


def _secret(file: str) -> str:
    return Path(file).read_text(encoding="utf-8").strip("\r\n")


def _asked(user: str) -> str:
    return str(click.prompt(f"Password of {user}", hide_input=True, err=True))
