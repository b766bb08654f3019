"""Whether the destinations of sinks can be connected to; nothing is ever sent to them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from virtstatd.commands.doctor.check import Check
from virtstatd.config.plugged import SinkConfig
from virtstatd.errors import StartError
from virtstatd.sending.address import split_address
from virtstatd.sending.paths import path_of
from virtstatd.sending.postgres_url import Database


CONNECT_SECONDS: Final = 3.0
AT_ONCE: Final = 8

PORTS: Final = {"http": 80, "https": 443, "nats": 4222, "tls": 4222}
ENCRYPTED: Final = frozenset({"https", "tls"})
PLAIN_FIRST: Final = frozenset({"nats", "postgres"})
"""Types whose protocol asks for TLS itself: there the connection alone is tried."""

DATAGRAMS: Final = frozenset({"influx_udp", "statsd"})
"""Types whose messages get no answer."""

POSTGRES_PORT: Final = 5432


@dataclass(frozen=True, slots=True)
class Destination:
    """A host and port that a sink connects to; `tls` is whether encryption begins at once."""

    host: str
    port: int
    tls: bool = False
    ca_file: str = ""
    server_name: str = ""

    def __str__(self) -> str:
        """Return it as `host:port`."""
        return f"{self.host}:{self.port}"


def destinations_of(sink: SinkConfig) -> list[Destination]:
    """Return where a sink connects to, by its options; none for one that writes or listens here."""
    options = sink.sink
    places = [*_urls(sink), *_addresses(sink)]
    tls = bool(getattr(options, "tls", False))
    return [
        Destination(
            host,
            port,
            tls=(encrypted or tls) and sink.type not in PLAIN_FIRST,
            ca_file=str(getattr(options, "ca_file", "")),
            server_name=str(getattr(options, "server_name", "")),
        )
        for host, port, encrypted in places
    ]


def _urls(sink: SinkConfig) -> Iterator[tuple[str, int, bool]]:
    options = sink.sink
    url = str(getattr(options, "proxy_url", "") or getattr(options, "url", ""))
    if sink.type == "postgres":
        for host, port in Database.of(url).places:
            if host and not host.startswith("/"):
                yield host, port or POSTGRES_PORT, False
        return
    for each in (url, *getattr(options, "servers", ())):
        parts = urlsplit(each)
        if parts.hostname and (port := parts.port or PORTS.get(parts.scheme)):
            yield parts.hostname, port, parts.scheme in ENCRYPTED


def _addresses(sink: SinkConfig) -> Iterator[tuple[str, int, bool]]:
    options = sink.sink
    if sink.type in DATAGRAMS:
        return
    for each in (getattr(options, "address", ""), *getattr(options, "brokers", ())):
        if isinstance(each, str) and each:
            try:
                host, port = split_address(each)
            except ValueError:
                continue
            yield host, port, False


Connect = Callable[[Destination], None]


def connect(destination: Destination) -> None:
    """Connect, shake hands where TLS begins at once, and hang up; raises OSError."""
    place = (destination.host, destination.port)
    with socket.create_connection(place, CONNECT_SECONDS) as plain:
        if destination.tls:
            name = destination.server_name or destination.host
            with _context(destination).wrap_socket(plain, server_hostname=name):
                pass


def _context(destination: Destination) -> ssl.SSLContext:
    file = destination.ca_file
    return ssl.create_default_context(cafile=str(path_of(file)) if file else None)


def sink_checks(sinks: tuple[SinkConfig, ...], connects: Connect = connect) -> Iterator[Check]:
    """Yield a result for each sink that connects to something, all tried at the same time."""
    wanted = [(sink, place) for sink in sinks for place in destinations_of(sink)]
    if not sinks:
        text = "none is configured, so that nothing is sent or shown"
        yield Check("sinks", "note", text, "add a [[sink]] to the configuration: virtstatd sinks")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tried = [pool.submit(connects, place) for _, place in wanted]
        for (sink, place), future in zip(wanted, tried, strict=True):
            what = f"sink {sink.name}"
            try:
                future.result()
            except StartError as error:
                note = "the agent's credentials are the service's own, and not read here"
                yield Check(what, "note", f"{place}: {error}; {note}")
            except ssl.SSLCertVerificationError as error:
                fix = f"name the authority of {place} as ca_file, or its name as server_name"
                yield Check(what, "missing", f"{place}: {error.verify_message}", fix)
            except OSError as error:
                reason = error.strerror or str(error)
                fix = "start the destination, or correct its address in the configuration"
                yield Check(what, "missing", f"{place}: {reason}", fix)
            else:
                secured = ", encrypted" if place.tls else ""
                yield Check(what, "ok", f"{place} takes connections{secured}")
