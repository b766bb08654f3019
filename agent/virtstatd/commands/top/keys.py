"""What each key does to what is looked at: a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from virtstatd.commands.top.state import Screen, Shown, TopView
from virtstatd.commands.top.table import COLUMNS


TYPED_MAX: Final = 200

SCREENS: Final[Mapping[str, Screen]] = {"1": "hurts", "2": "guests", "3": "agent"}
NEXT: Final[Mapping[Screen, Screen]] = {"hurts": "guests", "guests": "agent", "agent": "hurts"}

SORTS: Final = {
    "0": "",
    "N": "name",
    "C": "-cpu_ratio",
    "T": "-steal_ratio",
    "M": "-memory_used_bytes",
    "L": "-disk_latency_seconds",
    "D": "-disk_write_bytes_per_second",
    "I": "-net_receive_bytes_per_second",
}
ORDER: Final = ("", *(("-" if each.down else "") + each.id for each in COLUMNS))
"""What `s` goes through."""

ENTER: Final = ("\n", "\r", "KEY_ENTER", "KEY_RIGHT")
BACK: Final = ("\x1b", "KEY_BACKSPACE", "\x7f", "\b", "KEY_LEFT")
QUIT: Final = ("q", "\x03", "\x04")
HELP_KEYS: Final = ("?", "h", "KEY_F(1)")
PAUSE: Final = ("p", " ")
STEPS: Final = {"s": 1, "S": -1}
MOVES: Final = {"KEY_UP": -1, "k": -1, "KEY_DOWN": 1, "j": 1}
PAGES: Final = {"KEY_PPAGE": -1, "\x02": -1, "KEY_NPAGE": 1, "\x06": 1}
ENDS: Final = {"KEY_HOME": 0, "<": 0, "KEY_END": 1 << 30, ">": 1 << 30}


def pressed(view: TopView, key: str, seen: Shown, rows: int) -> TopView | None:
    """
    Return what is looked at after a key, None to quit.

    `rows` is how many guests or lines the screen shows.
    """
    if view.typed is not None:
        return _typed(view, view.typed, key)
    if key in QUIT:
        return None
    if key in ENTER:
        return _opened(view, seen)
    return _looked_at(view, key) or _ordered(view, key) or _moved(view, key, seen, rows)


def _looked_at(view: TopView, key: str) -> TopView | None:
    """Return another screen, None if the key is for none."""
    if key in SCREENS:
        return _turned(view, SCREENS[key])
    if key == "\t":
        return _turned(view, NEXT.get(view.screen, "hurts"))
    if key in BACK:
        return _turned(view, "hurts" if view.screen in NEXT else view.back)
    if key in HELP_KEYS:
        return _turned(view, "help")
    return None


def _ordered(view: TopView, key: str) -> TopView | None:
    """Return another choice or order of guests, None if the key is for none."""
    if key == "/":
        return replace(view, typed=view.filter)
    if key in PAUSE:
        return replace(view, paused=not view.paused)
    if key in SORTS:
        return replace(_turned(view, "guests"), sort=SORTS[key])
    if key in STEPS:
        at = ORDER.index(view.sort) if view.sort in ORDER else 0
        following = ORDER[(at + STEPS[key]) % len(ORDER)]
        return replace(_turned(view, "guests"), sort=following)
    if key == "r" and view.sort:
        turned = view.sort[1:] if view.sort.startswith("-") else f"-{view.sort}"
        return replace(_turned(view, "guests"), sort=turned)
    return None


def _typed(view: TopView, typed: str, key: str) -> TopView:
    if key in ("\n", "\r", "KEY_ENTER"):
        return replace(_turned(view, "guests"), typed=None, filter=typed.strip())
    if key in ("\x1b", "\x03"):
        return replace(view, typed=None)
    if key in ("KEY_BACKSPACE", "\x7f", "\b"):
        return replace(view, typed=typed[:-1])
    if key == "\x15":
        return replace(view, typed="")
    if len(key) == 1 and key.isprintable():
        return replace(view, typed=(typed + key)[:TYPED_MAX])
    return view


def _turned(view: TopView, screen: Screen) -> TopView:
    back = view.screen if view.screen in ("hurts", "guests") else view.back
    return replace(view, screen=screen, cursor=0, first=0, back=back)


def _opened(view: TopView, seen: Shown) -> TopView:
    uuid = ""
    if view.screen == "guests":
        guests = seen.guests.get("guests") or []
        at = view.cursor - seen.first
        uuid = str(guests[at].get("uuid")) if 0 <= at < len(guests) else ""
    elif view.screen == "hurts":
        found = seen.findings.get("findings") or []
        guest = found[min(view.cursor, len(found) - 1)].get("guest") if found else None
        uuid = str(guest.get("uuid")) if guest else ""
    return replace(_turned(view, "guest"), uuid=uuid) if uuid else view


def _moved(view: TopView, key: str, seen: Shown, rows: int) -> TopView:
    step = MOVES.get(key, 0) + rows * PAGES.get(key, 0)
    if not step and key not in ENDS:
        return view
    if view.screen in ("hurts", "guests"):
        if view.screen == "hurts":
            count = len(seen.findings.get("findings") or ())
        else:
            count = int(seen.guests.get("matched") or 0)
        at = min(max(ENDS.get(key, view.cursor + step), 0), max(count - 1, 0))
        return replace(view, cursor=at, first=_window(view.first, at, rows))
    at = max(ENDS.get(key, view.first + step), 0)
    return replace(view, first=min(at, 1000))


def _window(first: int, cursor: int, rows: int) -> int:
    """Return the first row of a window that has the cursor in it."""
    return min(max(first, cursor - rows + 1), cursor)
