"""Where the documents come from, and which of them a screen needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from virtstatd.commands.api import ApiError
from virtstatd.commands.top.state import Known, Screen, Shown, TopView, remembered
from virtstatd.commands.top.table import fitting


ALWAYS: Final = ("uuid", "name", "state", "stuck", "severity")


@dataclass(frozen=True, slots=True)
class Needed:
    """What a screen shows: a window of the guests, or one guest."""

    screen: Screen
    sort: str = ""
    filter: str = ""
    first: int = 0
    rows: int = 0
    columns: tuple[str, ...] = ()
    uuid: str = ""


def wanted(view: TopView, width: int, rows: int) -> Needed:
    """Return what a screen of that size needs; `rows` is how many guests fit."""
    first, asked = 0, rows
    if view.screen == "guests":  # more than is in view: not each step of the cursor asks anew
        step = max(rows // 2, 1)
        first, asked = view.first // step * step, rows + step
    columns = tuple(dict.fromkeys((*ALWAYS, *(each.id for each, _ in fitting(width)))))
    return Needed(view.screen, view.sort, view.filter, first, asked, columns, view.uuid)


class Answers(Protocol):
    """
    Answers with documents as the API has them; raises `ApiError`.

    `document` takes the path behind `/api/v1/` and the query.
    """

    where: str

    def document(self, path: str, **query: object) -> dict[str, Any]:
        """Return a document."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def looked(source: Answers, what: Needed, before: Shown) -> Shown:
    """
    Return what is known after a read of a screen's documents.

    What failed leaves what was known before, with the reason.
    """
    try:
        return _fresh(source, what, before)
    except ApiError as error:
        gone = what.screen == "guest" and not _shows(before, what.uuid)
        return replace(
            before,
            where=source.where,
            fault=str(error),
            guest={} if gone else before.guest,
            trails={} if gone else before.trails,
        )


def _fresh(source: Answers, what: Needed, before: Shown) -> Shown:
    findings = source.document("findings")
    seen = replace(
        before,
        where=source.where,
        fault="",
        host=source.document("host"),
        findings=findings,
        kinds=kinds_of(findings),
    )
    match what.screen:
        case "hurts" | "guests":
            return replace(seen, guests=_window(source, what), first=what.first)
        case "guest":
            guest = source.document(f"guests/{what.uuid}", history=1)
            trails = before.trails if _shows(before, what.uuid) else {}
            return replace(seen, guest=guest, trails=remembered(trails, guest))
        case "agent":
            return replace(seen, agent=source.document("agent"))
    return seen


def kinds_of(findings: Known) -> dict[str, Known]:
    """Return the kinds of findings by name, where the agent says them."""
    return {str(each.get("finding")): each for each in findings.get("kinds") or ()}


def _shows(seen: Shown, uuid: str) -> bool:
    return bool((seen.guest.get("guest") or {}).get("uuid") == uuid)


def _window(source: Answers, what: Needed) -> dict[str, Any]:
    return source.document(
        "guests",
        sort=what.sort,
        filter=what.filter,
        offset=what.first,
        limit=what.rows,
        columns=",".join(what.columns),
    )
