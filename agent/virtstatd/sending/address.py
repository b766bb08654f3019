"""Parse addresses like `host:port`, and open or inherit sockets that listen at them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from virtstatd.errors import PortInUse, StartError


BACKLOG = 1024
LAST_PORT = 65535
NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
FIRST_INHERITED = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port`, `[v6]:port` or `:port`; raise ValueError with what is wrong."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("must have an IPv6 address in brackets, like [::1]:9766")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > LAST_PORT:
        raise ValueError("must be host:port, like 127.0.0.1:9766")
    return host, int(port)


def check_server(option: str, address: str) -> None:
    """Raise ValueError for an option that is no server's address with host and port."""
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
    if not host or not port:
        raise ValueError(f"{option}: must be host:port, is {address}")


def inherited(name: str, environ: Mapping[str, str] = os.environ) -> socket.socket | None:
    """
    Return the listening socket of that name which this process was started with, if any.

    The protocol is systemd's, sd_listen_fds(3). It is a duplicate: the original stays open for the
    program that this process may execute in its own place.
    """
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    with suppress(ValueError):
        count = int(environ.get("LISTEN_FDS", "0"))
        if environ.get("LISTEN_PID") == str(os.getpid()) and name in names[:count]:
            return socket.socket(fileno=os.dup(FIRST_INHERITED + names.index(name)))
    return None


async def bound(address: str) -> socket.socket:
    """Return a socket that listens at `host:port`; raise StartError that says how to fix it."""
    host, port = split_address(address)
    loop = asyncio.get_running_loop()
    try:
        if not host:
            return _bound_everywhere(port, listen=True)
        places = await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return _bound(places[0][0], places[0][4], listen=True)
    except OSError as error:
        raise _cannot_listen(address, error) from error


def check_port(address: str) -> None:
    """Raise StartError where `bound` would, without ever listening; looking it up may block."""
    host, port = split_address(address)
    try:
        if not host:
            _bound_everywhere(port, listen=False).close()
            return
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        _bound(places[0][0], places[0][4], listen=False).close()
    except OSError as error:
        raise _cannot_listen(address, error) from error


def _bound_everywhere(port: int, *, listen: bool) -> socket.socket:
    """Bind every address of both IP versions, or of the one that this host has."""
    try:
        return _bound(socket.AF_INET6, ("::", port), listen=listen)
    except OSError as error:
        if error.errno not in NO_IPV6:
            raise
    return _bound(socket.AF_INET, ("0.0.0.0", port), listen=listen)  # noqa: S104 - as asked for


def _bound(family: int, place: object, *, listen: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            everywhere = isinstance(place, tuple) and place[0] == "::"
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not everywhere)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)  # type: ignore[arg-type]
        if listen:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _cannot_listen(address: str, error: OSError) -> StartError:
    text = f"cannot listen at {address}: {_fix(error)}"
    return (
        PortInUse(text, *split_address(address))
        if error.errno == errno.EADDRINUSE
        else StartError(text)
    )


def _fix(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the host has no address ({error.strerror}); write an address of this machine"
    fixes = {
        errno.EADDRINUSE: "the port is in use; stop what listens there or choose another port",
        errno.EADDRNOTAVAIL: "the address is not one of this machine; choose one that is",
        errno.EACCES: "not permitted; choose a port of 1024 or more",
    }
    return fixes.get(error.errno or 0, f"{error.strerror or error}; choose another address")
