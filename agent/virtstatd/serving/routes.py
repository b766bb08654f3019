"""What is shown where: sinks and the agent itself put it here, and a listener finds it."""

from __future__ import annotations

from dataclasses import dataclass

from virtstatd.serving.http import Respond


@dataclass(frozen=True, slots=True)
class Route:
    """
    What answers at a path, and below it where the path ends in a slash and is not the root.

    What is `private` is not shown at an address that others reach without a login.
    """

    path: str
    respond: Respond
    private: bool = False


class Routes:
    """The routes of each address, empty for the one of the table `[web]`."""

    def __init__(self) -> None:
        self._routes: dict[str, list[Route]] = {}

    def add(self, address: str, route: Route) -> None:
        """Show something at an address."""
        self._routes.setdefault(address, []).append(route)

    def at(self, *addresses: str) -> list[Route]:
        """Return what is shown at an address, which may have several names."""
        return [route for address in addresses for route in self._routes.get(address, ())]


def found(routes: list[Route], path: str) -> Route | None:
    """Return the route of a path, the longest that fits."""
    fits = [
        route
        for route in routes
        if path == route.path or (route.path[1:].endswith("/") and path.startswith(route.path))
    ]
    return max(fits, key=lambda route: len(route.path), default=None)
