"""One result of `doctor`, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from virtstatd.commands.cells import neutral


CheckState = Literal["ok", "note", "missing"]

WORDS: Final[dict[CheckState, str]] = {"ok": "ok", "note": "note", "missing": "MISSING"}
NAMES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Check:
    """
    What was looked at, what was found, and the command or the change that lets more be seen.

    What is "missing" keeps numbers from the agent, or the agent from its destinations; a "note" is
    a fact that may be wanted so.
    """

    what: str
    state: CheckState
    text: str
    fix: str = ""


def check_lines(check: Check) -> Iterator[str]:
    """Yield the lines of a result; nothing in them is interpreted by a terminal."""
    yield neutral(f"{WORDS[check.state]:<8} {check.what:<14} {check.text}")
    if check.fix:
        yield neutral(f"{'':8} {'':14} -> {check.fix}")


def named(names: Iterable[str]) -> str:
    """Return the first of some names, and how many more there are."""
    known = sorted(names)
    more = len(known) - NAMES_MAX
    return ", ".join(known[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")
