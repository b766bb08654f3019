"""The agent's own listener: a socket for each address, bound or inherited, and what it shows."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.collector import Row
from virtstatd.config.file import Config
from virtstatd.config.places import WebAddress
from virtstatd.errors import StartError
from virtstatd.model import Batch
from virtstatd.sending.address import bound, inherited, split_address
from virtstatd.serving.access import WebAccess
from virtstatd.serving.assets import page_routes
from virtstatd.serving.listener import ClientLimits, Connections, listening
from virtstatd.serving.options import WebOptions
from virtstatd.serving.routes import Routes
from virtstatd.serving.settings import FollowedSettings, Settings
from virtstatd.serving.site import Site


UNIT: Final = "web"
"""Name of the socket that systemd hands over, for the address of the table `[web]`."""

OWN: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - compared, not bound
"""Where this host finds itself behind an address that is every one."""

EXPOSED: Final = (
    "other machines reach it without a login, so that only metrics and health are shown;"
    " add web.users, or web.open = true"
)


class Web:
    """What the listeners of one agent share; `ready` is whether anything was polled."""

    def __init__(self, config: Config, log: FilteringBoundLogger) -> None:
        options = config.web
        self.routes = Routes()
        self.ready = False
        self.page = ""
        """Where a browser on this host finds the address of the table `[web]`, once it listens."""
        self._places = config.places
        self._options = options
        self._log = log
        self._connections = Connections(
            log,
            ClientLimits(
                connections=options.connections,
                connections_per_client=options.connections_per_client,
            ),
        )

    @property
    def shows(self) -> bool:
        """Whether it listens at the address of the table `[web]`."""
        return any(place.main for place in self._places)

    def seen(self, _: Batch) -> None:
        """Take note that there are numbers."""
        self.ready = True

    def numbers(self) -> Iterator[Row]:
        """Yield the numbers of the listeners, where there are any."""
        if self._places:
            yield "web_connections", {}, len(self._connections)
            yield "web_evicted", {}, self._connections.evicted
            yield "web_refused", {}, self._connections.refused

    @asynccontextmanager
    async def listening(self, sockets: MutableMapping[str, socket.socket]) -> AsyncIterator[None]:
        """
        Listen at every address within the block, and put each socket into `sockets`.

        Raises StartError where that cannot be.
        """
        if not self._places:
            yield
            return
        try:
            settings = FollowedSettings(self._options, self._log)
        except StartError as error:
            raise StartError(f"web: {error}") from error
        access = WebAccess(self._options.access, asyncio.get_running_loop().time)
        try:
            async with AsyncExitStack() as stack:
                for place in self._places:
                    name, sock = await listening_socket(place)
                    sockets[name] = sock
                    await self._listen(stack, place, sock, settings, access)
                yield
        finally:
            access.close()
            settings.close()

    async def _listen(
        self,
        stack: AsyncExitStack,
        place: WebAddress,
        sock: socket.socket,
        settings: FollowedSettings,
        access: WebAccess,
    ) -> None:
        routes = self.routes.at(*place.names)
        if place.main:
            routes += page_routes()
        reached = is_reached(sock)
        site = Site(
            routes,
            settings,
            access,
            ready=lambda: self.ready,
            hosts=self._options.hosts,
            reached=reached,
            open_to_all=self._options.open,
        )
        now = await settings.current()
        await stack.enter_async_context(
            listening(sock, site.answer, self._connections, settings.context)
        )
        host, port = (*sock.getsockname(), 0)[:2] if sock.family != socket.AF_UNIX else ("", 0)
        paths = [route.path for route in routes if not route.private]
        tls = now.tls is not None
        if place.main and host:
            shown = OWN.get(host, f"[{host}]" if ":" in host else host)
            self.page = f"{'https' if tls else 'http'}://{shown}:{port}/"
        self._log.info("web.listening", host=host, port=port, paths=paths, tls=tls)
        if exposed(self._options, now, reached=reached):
            self._log.warning("web.exposed", host=host, port=port)


def exposed(options: WebOptions, settings: Settings, *, reached: bool) -> bool:
    """Return whether others see something without a login that was not allowed."""
    return reached and not options.open and not settings.authenticated


async def listening_socket(place: WebAddress) -> tuple[str, socket.socket]:
    """Return the socket of an address and the name by which the next run inherits it."""
    names = (*socket_names([place]),)
    for name in names:
        try:
            sock = inherited(name)
        except OSError as error:
            text = f"the socket that was handed over as {name} cannot be used: {error}"
            raise StartError(text) from error
        if sock is not None:
            return name, sock
    try:
        return names[-1], await bound(place.address)
    except StartError as error:
        raise StartError(f"{option_of(place)}: {error}") from error


def socket_names(places: Iterable[WebAddress]) -> Iterator[str]:
    """Yield the names of all sockets that may serve these addresses."""
    for place in places:
        if place.main:
            yield UNIT
        yield socket_name(place)


def socket_name(place: WebAddress) -> str:
    """Return the name of an address's socket for sd_listen_fds(3), which wants no colon."""
    return f"{UNIT}@{place.address.replace(':', '|')}"


def activated(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether systemd has handed over the socket of the table `[web]`."""
    return UNIT in environ.get("LISTEN_FDNAMES", "").split(":")


def option_of(place: WebAddress) -> str:
    """Return the option that an address is from, as faults name it."""
    table, *rest = place.option
    return f"{table}[{rest[0]}].{rest[1]}" if len(rest) > 1 else f"{table}.{rest[0]}"


def is_reached_at(address: str) -> bool:
    """Return whether other machines can reach an address; any name except `localhost` counts."""
    host, _ = split_address(address)
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host != "localhost"


def is_reached(sock: socket.socket) -> bool:
    """Return whether other machines can reach a socket."""
    if sock.family == socket.AF_UNIX:
        return False
    return not ipaddress.ip_address(str(sock.getsockname()[0]).partition("%")[0]).is_loopback
