"""URLs of PostgreSQL databases: one or several hosts, and options of which none is ignored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit


SESSIONS = frozenset({"any", "primary", "standby", "read-write", "read-only", "prefer-standby"})
LAST_PORT = 65535

_TLS = re.compile(r"ssl.*|requiressl|channel_binding|require_auth")
_SECRET = re.compile("password|passfile|service|servicefile|scram_.*|oauth_.*")
_UNKNOWN = re.compile("hostaddr|requirepeer|krb.*|gss.*|load_balance_hosts|replication")

DatabaseHost = tuple[str | None, int | None]
"""Host and port, or the directory of a socket; None is what libpq's environment says."""


@dataclass(frozen=True, slots=True)
class Database:
    """What a URL says; raises ValueError for what would be weaker than it says, or a secret."""

    places: tuple[DatabaseHost, ...]
    session: str | None

    @classmethod
    def of(cls, url: str) -> Database:
        """Parse `postgresql://user@host:port,host:port/name?option=text`."""
        try:
            parts = urlsplit(url)
            given = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
            query = {name: texts[-1] for name, texts in given.items()}
            listed = query.get("host") or parts.netloc.rpartition("@")[2]
            places = _places(listed, query.get("port", ""))
        except ValueError:
            places = ()
        if not places or parts.scheme not in ("postgresql", "postgres"):
            raise ValueError("url: must be like postgresql://user@host:5432/name")
        if parts.password is not None:
            raise ValueError("url: the password belongs into password_file")
        for name in query:
            if _TLS.fullmatch(name):
                raise ValueError(
                    f"url: {name} belongs into the options: tls = true encrypts and checks the"
                    " server (verify-full), ca_file, certificate_file and key_file are its files"
                )
            if _SECRET.fullmatch(name):
                raise ValueError(
                    f"url: {name} is not taken; the password belongs into password_file"
                )
            if _UNKNOWN.fullmatch(name):
                raise ValueError(f"url: {name} is not known here")
        session = query.get("target_session_attrs")
        if session is not None and session not in SESSIONS:
            raise ValueError(
                f"url: target_session_attrs must be one of {', '.join(sorted(SESSIONS))}"
            )
        if session is None and len(places) > 1:
            session = "read-write"  # of several hosts only one takes rows
        return cls(places, session)


def _places(hosts: str, ports: str) -> tuple[DatabaseHost, ...]:
    """Return the hosts of a list with commas; raise ValueError for what is none."""
    found = [_place(each) for each in hosts.split(",")]
    if ports:
        numbers = [_port(each) for each in ports.split(",")]
        if len(numbers) == 1:
            numbers *= len(found)
        found = [(host, port) for (host, _), port in zip(found, numbers, strict=True)]
    if len(found) > 1 and not all(host for host, _ in found):
        raise ValueError(hosts)
    return tuple(found)


def _place(text: str) -> DatabaseHost:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:\[\]]*))(?::(.*))?", unquote(text))
    if match is None:
        raise ValueError(text)
    return match[1] or match[2] or None, _port(match[3]) if match[3] is not None else None


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= LAST_PORT:
        raise ValueError(text)
    return int(text)
