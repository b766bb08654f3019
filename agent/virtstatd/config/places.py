"""Where the agent listens: the address of the table `[web]`, and those of sinks that have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from virtstatd.config.options import Fault
from virtstatd.config.toml_lines import Path
from virtstatd.serving.options import DEFAULT_ADDRESS, WebOptions, faults_of_web
from virtstatd.sink import Sink


class WebAddress(Struct, frozen=True, kw_only=True):
    """
    One address to listen at, and the option that says so.

    `names` are those under which routes are added for it: the address, and nothing where it is the
    one of the table `[web]`.
    """

    address: str
    option: Path
    names: tuple[str, ...]

    @property
    def main(self) -> bool:
        """Whether the address belongs to the table `[web]`."""
        return "" in self.names


def places_of(
    web: WebOptions, sinks: Sequence[Sink], faults: list[Fault], *, written: bool
) -> tuple[WebAddress, ...]:
    """
    Return where to listen, or add to the faults.

    Nothing listens where no sink shows anything and nothing is `written` in the table. A table
    without an address has that of the first sink with one, as configurations had it before there
    was a table.
    """
    faults += [Fault(("web", *option), text) for option, text in faults_of_web(web)]
    shows: dict[int, Callable[[], tuple[str, str]]] = {
        index: each.shown_at for index, each in enumerate(sinks) if hasattr(each, "shown_at")
    }
    shown = {index: show() for index, show in shows.items()}
    own: dict[str, int] = {}
    for index, (address, _) in shown.items():
        if address:
            own.setdefault(address, index)
    main = web.listen_address or next(iter(own), DEFAULT_ADDRESS)
    taken: dict[tuple[str, str], int] = {}
    for index, (address, path) in shown.items():
        there = taken.setdefault((address or main, path), index)
        if there != index:
            text = f"is that of sink[{there}] too, at the same address; give each its own"
            faults.append(Fault(("sink", index, "path"), text))
    places: list[WebAddress] = []
    if shown or written:
        option: Path = ("web", "listen_address")
        if not web.listen_address and main in own:
            option = ("sink", own[main], "listen_address")
        places.append(WebAddress(address=main, option=option, names=("", main)))
    places += [
        WebAddress(address=address, option=("sink", index, "listen_address"), names=(address,))
        for address, index in own.items()
        if address != main
    ]
    return tuple(places)
