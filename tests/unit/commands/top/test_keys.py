"""What each key does."""

from __future__ import annotations

from dataclasses import replace

from support import documents
from virtstatd.commands.top.keys import ORDER, pressed
from virtstatd.commands.top.state import Shown, TopView


ROWS = [documents.guest_row(index) for index in range(10)]
SEEN = Shown(
    findings=documents.findings(
        documents.finding(ROWS[3], "critical"), documents.finding(ROWS[4], guest=None)
    ),
    guests={**documents.guests(ROWS, 100), "matched": 50},
    first=20,
)


def typed(view: TopView, *keys: str, rows: int = 10) -> TopView:
    """Return what is looked at after some keys, none of which quits."""
    for key in keys:
        after = pressed(view, key, SEEN, rows)
        assert after is not None
        view = after
    return view


def test_screens_are_a_key_away():
    """Digits and Tab choose a screen, a key shows the help, Escape returns."""
    assert typed(TopView(), "2").screen == "guests"
    assert typed(TopView(), "\t", "\t").screen == "agent"
    assert typed(TopView(screen="guests"), "?").screen == "help"
    assert typed(TopView(screen="guests"), "?", "\x1b").screen == "guests"
    assert typed(TopView(screen="guests"), "\x1b").screen == "hurts"
    assert typed(TopView(), "3", "KEY_BACKSPACE").screen == "hurts"


def test_q_quits_unless_it_is_typed():
    """The key quits everywhere but within a filter."""
    for screen in ("hurts", "guests", "guest", "agent", "help"):
        assert pressed(TopView(screen=screen), "q", SEEN, 10) is None
    assert typed(TopView(typed=""), "q").typed == "q"


def test_a_guest_is_opened_and_left():
    """Enter opens the guest of the row or of the finding, Escape returns to where it was."""
    view = typed(TopView(screen="guests", cursor=23, first=20), "\n")
    assert (view.screen, view.uuid) == ("guest", ROWS[3]["uuid"])
    assert typed(view, "\x1b").screen == "guests"

    view = typed(TopView(), "\n")
    assert (view.screen, view.uuid) == ("guest", ROWS[3]["uuid"])
    assert typed(view, "\x1b").screen == "hurts"


def test_nothing_to_open_changes_nothing():
    """A finding without a guest, a row that is not there yet and an empty list open nothing."""
    assert typed(TopView(cursor=1), "\n") == TopView(cursor=1)
    view = TopView(screen="guests", cursor=45, first=40)
    assert typed(view, "\n") == view
    assert pressed(TopView(), "\n", Shown(), 10) == TopView()


def test_the_window_follows_the_cursor():
    """Moves stay within the guests that match, and the window has the cursor in it."""
    view = typed(TopView(screen="guests"), *["KEY_DOWN"] * 12)
    assert (view.cursor, view.first) == (12, 3)
    view = typed(view, "KEY_END")
    assert (view.cursor, view.first) == (49, 40)
    view = typed(view, "KEY_PPAGE")
    assert (view.cursor, view.first) == (39, 39)
    assert typed(view, "KEY_HOME", "KEY_UP").cursor == 0
    assert typed(TopView(), "j", "j", "j").cursor == 1


def test_order_goes_through_all_columns():
    """A key for each common order, two to go through all, one to reverse."""
    assert typed(TopView(), "T") == replace(TopView(), screen="guests", sort="-steal_ratio")
    assert typed(TopView(sort="-steal_ratio"), "r").sort == "steal_ratio"
    assert typed(TopView(sort="name"), "r").sort == "-name"
    assert typed(TopView(), "r") == TopView()
    seen = [typed(TopView(), *"s" * steps).sort for steps in range(len(ORDER))]
    assert seen == list(ORDER)
    assert typed(TopView(), "s", "S").sort == ""
    assert typed(TopView(sort="name"), "0").sort == ""


def test_a_filter_is_typed():
    """Characters are added, taken away and applied; Escape leaves the filter as it was."""
    view = typed(TopView(), "/", *"steal>5x", "\x7f")
    assert view.typed == "steal>5"
    view = typed(view, "\n")
    assert (view.filter, view.typed, view.screen) == ("steal>5", None, "guests")
    assert typed(view, "/", *"abc", "\x1b").filter == "steal>5"
    assert typed(view, "/", "\x15", "\n").filter == ""
    assert typed(TopView(), "/", "KEY_UP", "\x01").typed == ""
    assert len(typed(TopView(), "/", *"x" * 300).typed or "") == 200


def test_a_long_guest_is_scrolled():
    """In a guest and the help, keys move the lines and not a cursor."""
    view = typed(TopView(screen="guest"), "KEY_DOWN", "KEY_NPAGE")
    assert (view.first, view.cursor) == (11, 0)
    assert typed(view, "KEY_HOME", "KEY_UP").first == 0


def test_a_pause_is_turned_on_and_off():
    """The same key stops and continues."""
    assert typed(TopView(), "p").paused
    assert not typed(TopView(), " ", " ").paused
