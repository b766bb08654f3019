"""The name that a sink has for this host, also after the host was renamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from msgspec import Meta

from virtstatd.runtime.host import host_name


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Named:
    """The option of every sink that says which host its numbers are of."""

    host: Annotated[
        str,
        Meta(description="Name of this host in what is sent; empty is the kernel's name for it."),
    ] = ""


class ByHost(Generic[T]):
    """
    What has the host's name in it, such as an encoder, made again when the name changes.

    Hosts are often renamed just after their start, by what sets them up.
    """

    def __init__(
        self, given: str, make: Callable[[str], T], name: Callable[[], str] = host_name
    ) -> None:
        self._given = given
        self._make = make
        self._name = name
        self._made: tuple[str, T] | None = None

    def __call__(self) -> T:
        """Return what has the name that the host has now."""
        name = self._given or self._name()
        if self._made is None or self._made[0] != name:
            self._made = name, self._make(name)
        return self._made[1]
