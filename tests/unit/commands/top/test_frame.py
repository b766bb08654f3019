"""A frame is a pure function of what is known, what is looked at, and the size."""

from __future__ import annotations

from typing import Any

import pytest

from support import documents
from support.documents import HOSTILE
from virtstatd.commands.cells import cells
from virtstatd.commands.top.frame import frame, table_rows
from virtstatd.commands.top.lines import FrameLine, sparkline, wrapped
from virtstatd.commands.top.state import Screen, Shown, TopView, Trails, remembered
from virtstatd.commands.top.table import COLUMNS, fitting


SIZES = [(80, 24), (120, 40), (200, 50), (20, 5), (1, 1), (40, 12)]
FIRST = documents.guest_row(0)["uuid"]
SCREENS: tuple[Screen, ...] = ("hurts", "guests", "guest", "agent", "help")


def text(lines: list[FrameLine]) -> list[str]:
    """Return what a frame shows, without styles."""
    return ["".join(part for part, _ in line).rstrip() for line in lines]


def seen(count: int, **more: Any) -> Shown:
    """Return documents of so many guests, of which two hurt if there are more than two."""
    rows = [documents.guest_row(index) for index in range(count)]
    found = []
    if count > 2:
        rows[0].update(severity="critical", stuck=True)
        rows[1].update(severity="warning")
        found = [documents.finding(rows[0], "critical"), documents.finding(rows[1])]
    guest = documents.guest(rows[0], *found[:1]) if rows else {}
    values: dict[str, Any] = {
        "where": "http://127.0.0.1:9766",
        "host": documents.host(count, len(found) // 2, len(found) // 2),
        "findings": documents.findings(*found),
        "guests": documents.guests(rows),
        "guest": guest,
        "agent": documents.agent(),
        "trails": remembered({}, guest),
    }
    return Shown(**{**values, **more})


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_frame_fits_its_screen(screen: Screen, width: int, height: int, count: int):
    """A frame has the screen's lines, none longer than its width, whatever there is to show."""
    for known in (seen(count), Shown(where="x"), Shown(where="x", fault="no answer " * 30)):
        lines = frame(known, TopView(screen=screen, cursor=5, uuid=FIRST), width, height)

        assert len(lines) == height
        assert all(sum(cells(part) for part, _ in line) <= width for line in lines)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_hostile_names_stay_in_their_cells(screen: Screen, ascii_only: bool):
    """A name with escapes, turned order or 255 emoji changes no line but its own cell."""
    rows = [documents.guest_row(index, name) for index, name in enumerate(HOSTILE)]
    plain = [documents.guest_row(index, "x") for index in range(len(HOSTILE))]
    for index, hostile in enumerate(rows):
        frames = []
        for row, others in ((hostile, rows), (plain[index], plain)):
            found = documents.finding(row, device=row["name"], advice=row["name"])
            known = Shown(
                where=row["name"],
                host={**documents.host(), "host": row["name"]},
                findings=documents.findings(found),
                guests=documents.guests(others),
                guest=documents.guest(row, found),
                agent=documents.agent(),
            )
            view = TopView(screen=screen, uuid=row["uuid"], ascii_only=ascii_only)
            frames.append(frame(known, view, 100, 60))
        for line in frames[0]:
            shown = "".join(part for part, _ in line)
            assert shown.isprintable()
            assert cells(shown) <= 100
            assert not ascii_only or shown.isascii()
        if screen == "guests":
            numbers = [["".join(p for p, _ in line)[-50:] for line in each] for each in frames]
            assert numbers[0][4:-1] == numbers[1][4:-1]


def test_what_hurts_comes_first():
    """The first screen begins with the host's state and the worst finding, with its advice."""
    lines = text(frame(seen(12), TopView(), 80, 24))

    assert lines[0].startswith(" hyper1  !! 1 critical, ! 1 warning  12 running  libvirt up")
    assert lines[3] == " What hurts: 1 of 2"
    assert lines[4] == "!! critical  5min  vCPUs of guest-0000 waited 21 % of the time for a CPU"
    assert lines[5].strip() == "Move a guest away, or give this one a larger share."
    assert lines[6].startswith(" ! warning   5min  vCPUs of guest-0001")
    assert lines[9].startswith("!!X guest-0000")


def test_guests_are_counted_exactly():
    """The number of guests is no rounded one, however many there are."""
    assert "  1234 running  " in text(frame(seen(1234), TopView(), 80, 24))[0]


def test_every_advice_can_be_reached():
    """The finding that the cursor is on is shown whole, however many there are and how small."""
    rows = [documents.guest_row(index) for index in range(50)]
    found = [documents.finding(row, advice=f"advice for {row['name']}") for row in rows]
    known = seen(50, findings=documents.findings(*found))
    for cursor in (0, 7, 49):
        shown = "\n".join(text(frame(known, TopView(cursor=cursor), 80, 24)))
        assert f"advice for guest-{cursor:04d}" in shown
        assert f"What hurts: {cursor + 1} of 50" in shown


def test_nothing_hurts_is_said():
    """A host that is well says so, and what has ended not long ago."""
    past = documents.finding(documents.guest_row(1), until="2026-11-26T11:58:00.000Z")
    known = seen(2, findings=documents.findings(recent=(past,)))
    lines = text(frame(known, TopView(), 100, 24))

    assert "nothing hurts" in lines[0]
    assert lines[4] == " Nothing hurts now."
    assert lines[5].startswith("    ended 2min ago: vCPUs of guest-0001")


def test_severity_and_state_need_no_colour():
    """Marks and letters alone tell what is critical, what is a warning and what is stuck."""
    lines = text(frame(seen(3), TopView(screen="guests", cursor=2), 80, 24))

    assert [line[:4] for line in lines[4:7]] == ["!!X ", " !R ", "  R "]


@pytest.mark.parametrize("width", [20, 80, 100, 120, 160, 200, 250])
def test_columns_that_fit_are_whole_and_aligned(width: int):
    """No column is cut in two: those that do not fit are left out, the name never."""
    columns = fitting(width)
    total = 4 + sum(size + 1 for _, size in columns) - 1

    assert total <= max(width, 18)
    assert "name" in {column.id for column, _ in columns}
    if width >= 80:
        assert {"steal_ratio", "steal_peak_ratio", "cpu_ratio"} <= {each.id for each, _ in columns}
    if width == 250:
        assert len(columns) == len(COLUMNS)
    if width >= 80:
        lines = text(frame(seen(5), TopView(screen="guests", cursor=9), width, 24))
        assert len({len(line) for line in lines[4:9]}) == 1


def test_the_window_shows_the_cursor_and_the_place():
    """The row that the cursor is on is drawn as such, and its place among all is shown."""
    rows = [documents.guest_row(index) for index in range(100, 119)]
    known = seen(3, guests={**documents.guests(rows, 1000), "matched": 500}, first=100)
    view = TopView(screen="guests", cursor=103, first=100, sort="-steal_ratio", filter="web")
    lines = frame(known, view, 80, 24)

    assert [line[0][1] for line in lines[4:8]] == ["plain", "plain", "plain", "select"]
    assert text(lines)[-1].startswith(" 104/500 of 1000: web ")
    assert ">STEAL" in text(lines)[3]


def test_a_guest_has_its_devices_and_its_past():
    """A guest's screen has each vCPU, disk and NIC with numbers and a line of its past."""
    trails: Trails = {}
    row = documents.guest_row(1)
    guest = documents.guest(row, documents.finding(row))
    for _ in range(5):
        trails = remembered(trails, guest)
    shown = text(
        frame(
            seen(3, guest=guest, trails=trails), TopView(screen="guest", uuid=row["uuid"]), 120, 60
        )
    )

    assert any(line.startswith(" 0     50.0%") and "▅▅▅▅▅" in line for line in shown)
    assert any(line.startswith(" vda") and "97.0% " in line and "█████" in line for line in shown)
    assert any(line.startswith(" vnet0") and "█████" in line for line in shown)
    assert any("total iops limit 500" in line for line in shown)
    assert any("guest-0001 started" in line for line in shown)


def test_another_guest_is_not_shown_for_the_one_that_was_opened():
    """Until the documents of a guest are there, those of the guest before are not shown."""
    lines = text(frame(seen(3), TopView(screen="guest", uuid="another"), 80, 24))

    assert not any("guest-0000" in line for line in lines[1:])
    assert any("Waiting for numbers" in line for line in lines)


def test_a_fault_is_shown_beside_what_was_known():
    """While the agent does not answer, the last numbers stay, and the bottom line says why."""
    lines = text(frame(seen(3, fault="no agent answers"), TopView(), 80, 24))

    assert lines[-1] == " ! no agent answers"
    assert lines[0].startswith(" hyper1")


def test_what_is_typed_is_shown():
    """The filter stands in the bottom line while it is typed."""
    lines = text(frame(seen(3), TopView(typed="steal>5\x1b"), 80, 24))

    assert lines[-1] == " Filter: steal>5\u00b7_"


def test_rows_are_those_of_the_frame():
    """As many guests are asked for as the screen shows."""
    for height in (5, 11, 12, 24, 50):
        lines = frame(seen(1000), TopView(screen="guests"), 80, height)
        shown = [line for line in text(lines) if "guest-" in line]
        assert len(shown) == table_rows(TopView(screen="guests"), height)


def test_bars_are_in_proportion():
    """A line of bars ends with the newest, has a blank for what is not known, and ASCII at need."""
    assert sparkline([0, 0.5, None, 1], 4, most=1) == "▁▅ █"
    assert sparkline([0, 1, 2], 5, ascii_only=True) == "  _+@"
    assert sparkline([5, 6, 7], 2) == "▇█"
    assert sparkline([0, 0], 2) == "▁▁"
    assert sparkline([], 3) == "   "


def test_wrapped_text_keeps_to_its_width():
    """Wide characters without a blank are broken as well."""
    for line in wrapped("\u6f22" * 30 + " words and words", 20, "  "):
        assert cells(line) <= 20
