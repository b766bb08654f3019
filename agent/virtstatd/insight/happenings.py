"""The last events of all guests, those that have ended too."""

from __future__ import annotations

from collections import deque
from typing import Final

from virtstatd.insight.document import Document, stamp
from virtstatd.model import Happening


KEPT_MAX: Final = 1000
"""How many events are kept, of all guests together."""


class Happenings:
    """Keep the last events; `version` rises with each."""

    def __init__(self) -> None:
        self.version = 0
        self._last: deque[Happening] = deque(maxlen=KEPT_MAX)

    def put(self, happening: Happening) -> None:
        """Keep an event, and forget the oldest where there are too many."""
        self.version += 1
        self._last.append(happening)

    def documents(self, uuid: str = "", limit: int | None = None) -> list[Document]:
        """Return the last events, of one guest or all, the newest first."""
        several = (each for each in reversed(self._last) if uuid in ("", each.domain.uuid))
        most = KEPT_MAX if limit is None else limit
        return [happening_document(each) for each, _ in zip(several, range(most), strict=False)]


def happening_document(happening: Happening) -> Document:
    """Return an event as documents have it."""
    domain = happening.domain
    return {
        "time": stamp(happening.at),
        "guest": {"uuid": domain.uuid, "name": domain.name},
        "event": happening.event,
        "detail": happening.detail or None,
        "device": happening.device or None,
        "text": happening_text(happening),
        "count": happening.count,
    }


def happening_text(happening: Happening) -> str:
    """Return an event in a few words: the kind, the detail, the device and what else is known."""
    words = f"{happening.event} {happening.detail}".replace("_", " ")
    return " ".join(f"{words} {happening.device} {happening.more}".split())
