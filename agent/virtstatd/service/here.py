"""Checks whether a well-formed configuration can work on this host, before anything opens."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Final

from virtstatd.config.file import Config, SinkConfig
from virtstatd.config.options import Fault, options
from virtstatd.config.places import WebAddress
from virtstatd.config.toml_lines import Path
from virtstatd.errors import PortInUse, StartError
from virtstatd.runtime.worker import Worker
from virtstatd.sending.address import check_port
from virtstatd.service.sending import spool_directory
from virtstatd.service.web import EXPOSED, activated, exposed, is_reached_at
from virtstatd.serving.options import WebOptions
from virtstatd.serving.settings import read_settings


HERE_SECONDS: Final = 30.0
"""Time for the checks of all sinks together; a disk or name server that hangs takes longer."""

IN_USE: Final = "an agent listens here already, which is fine where that one takes this file"

PROBE_SECONDS: Final = 5.0
PEM_END: Final = "-----END CERTIFICATE-----"
CREDENTIAL: Final = "credential:"


@dataclass(frozen=True, slots=True)
class FoundHere:
    """The reasons against a start here, and what cannot be checked from outside the service."""

    faults: list[Fault]
    notes: list[Fault]


async def found_here(
    config: Config,
    ours: Callable[[PortInUse], bool],
    *,
    outside: bool = False,
    seconds: float = HERE_SECONDS,
) -> FoundHere:
    """
    Check for each sink whether it could open here, and leave nothing behind.

    `ours` says whether the running agent listens at a port. `outside` is for a process that is not
    the service: systemd passes credentials and the state directory only to the service.
    """
    exposures: list[Fault] = []
    asked = [*_asked_sinks(config), *_asked_web(config, exposures)]
    workers = [Worker(f"check {each.name}") for each in asked]
    answers = [worker.submit(each.ask) for worker, each in zip(workers, asked, strict=True)]
    for worker in workers:
        worker.close()
    if answers:
        await asyncio.wait(answers, timeout=seconds)
    found = FoundHere([], [])
    for each, answer in zip(asked, answers, strict=True):
        if not answer.done():
            text = f"could not be checked within {seconds:g} s; see what hangs"
            found.faults.append(Fault(each.path, text))
        elif error := answer.exception():
            fault = _fault(each, error)
            if isinstance(error, PortInUse) and ours(error):
                if outside:
                    found.notes.append(Fault(fault.path, IN_USE))
            elif outside and each.for_the_service(str(fault.path[-1])):
                found.notes.append(fault)
            else:
                found.faults.append(fault)
    if outside:
        found.notes.extend(exposures)
    return found


def is_virtstatd(taken: PortInUse, web: WebOptions | None = None) -> bool:
    """
    Return whether the listener at a port is an agent, which identifies itself to anyone.

    One that wants a certificate of its clients is known by its own, the one that `web` names.
    """
    host = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(taken.host, taken.host)  # noqa: S104
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing is sent that matters
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    return (
        _says_so(http.client.HTTPConnection(host, taken.port, timeout=PROBE_SECONDS))
        or _says_so(
            http.client.HTTPSConnection(host, taken.port, timeout=PROBE_SECONDS, context=anybody)
        )
        or (web is not None and _shows(host, taken.port, anybody, web))
    )


def _shows(host: str, port: int, anybody: ssl.SSLContext, web: WebOptions) -> bool:
    """Return whether a listener has the certificate of the configuration."""
    try:
        settings, _ = read_settings(web)
        if settings.certificate is None:
            return False
        text = settings.certificate.read_text(encoding="ascii")
        _, begin, rest = text.partition("-----BEGIN CERTIFICATE-----")
        wanted = ssl.PEM_cert_to_DER_cert(begin + rest.partition("-----END")[0] + PEM_END)
        with (
            socket.create_connection((host, port), PROBE_SECONDS) as plain,
            anybody.wrap_socket(plain) as encrypted,
        ):
            return encrypted.getpeercert(binary_form=True) == wanted
    except (OSError, ValueError, StartError):
        return False


def _says_so(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/-/healthy")
        return connection.getresponse().read(100).startswith(b"virtstatd ")
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class _Asked:
    """One part of the configuration that is checked for whether it could work here."""

    name: str
    path: Path
    options: frozenset[str]
    ask: Callable[[], None]
    for_the_service: Callable[[str], bool]


def _asked_sinks(config: Config) -> Iterator[_Asked]:
    for index, each in enumerate(config.sinks):
        yield _Asked(
            each.name,
            ("sink", index),
            frozenset(_names(each)),
            _asking(each, config),
            partial(_for_the_service, each, config),
        )


def _asked_web(config: Config, shown: list[Fault]) -> Iterator[_Asked]:
    """Ask for each address and for the files of the table; `shown` gets what strangers see."""
    for place in config.places:
        *path, option = place.option
        if not (place.main and activated()):
            yield _Asked(
                place.address,
                tuple(path),
                frozenset({str(option)}),
                partial(_check_place, place),
                lambda _: False,
            )
    if config.places:
        web = config.web

        def ask() -> None:
            settings, _ = read_settings(web)
            shown.extend(
                Fault(place.option, EXPOSED)
                for place in config.places
                if exposed(web, settings, reached=is_reached_at(place.address))
            )

        yield _Asked(
            "web",
            ("web",),
            frozenset(each.name for each in options(WebOptions)),
            ask,
            lambda option: CREDENTIAL in str(getattr(web, option, "")),
        )


def _check_place(place: WebAddress) -> None:
    option = place.option[-1]
    try:
        check_port(place.address)
    except PortInUse as error:
        raise PortInUse(f"{option}: {error}", error.host, error.port) from error
    except StartError as error:
        raise StartError(f"{option}: {error}") from error


def _asking(each: SinkConfig, config: Config) -> Callable[[], None]:
    def ask() -> None:
        if each.outlet.spool_bytes:
            _check_spool(spool_directory(each, config))
        check: Callable[[], object] | None = getattr(each.sink, "check_here", None)
        if check is not None:
            check()

    return ask


def _check_spool(directory: FilePath) -> None:
    """Raise StartError unless a directory is writable, or can be created."""
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        fix = f"let the agent's user write in {there}, or choose another agent.state_directory"
        raise StartError(f"spool_bytes: cannot write {directory}; {fix}")


def _fault(each: _Asked, error: BaseException) -> Fault:
    text = str(error) or type(error).__name__
    if not isinstance(error, StartError):  # a plug-in is not our code
        text = f"cannot be checked: {type(error).__name__}: {error}"
    option, colon, rest = text.partition(": ")
    if colon and option in each.options:
        return Fault((*each.path, option), rest)
    return Fault(each.path, text)


def _names(each: SinkConfig) -> Iterator[str]:
    yield "spool_bytes"
    for option in options(type(each.sink)):
        yield option.name


def _for_the_service(each: SinkConfig, config: Config, option: str) -> bool:
    """Return whether an option is about what systemd passes only to the service."""
    if option == "spool_bytes":
        return not config.agent.state_directory and "STATE_DIRECTORY" not in os.environ
    given = getattr(each.sink, option, "")
    names = given.values() if isinstance(given, dict) else [given]
    return any(str(name).startswith(CREDENTIAL) for name in names)
