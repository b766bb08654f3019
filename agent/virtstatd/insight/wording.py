"""What a finding says: its text and its advice, and numbers as people say them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from virtstatd.insight.columns import Unit
from virtstatd.insight.findings import FindingKind
from virtstatd.model import Domain


@dataclass(frozen=True, slots=True)
class Subject:
    """The guest that a finding is about, None for the host, and the device, empty for none."""

    domain: Domain | None = None
    device: str = ""

    @property
    def uuid(self) -> str:
        """The guest's UUID, empty for the host."""
        return self.domain.uuid if self.domain else ""

    @property
    def name(self) -> str:
        """The guest's name, empty for the host."""
        return self.domain.name if self.domain else ""


def finding_text(
    kind: FindingKind, subject: Subject, value: float, threshold: float
) -> tuple[str, str]:
    """Return the text and the advice of a finding; names in them are as hostile as they are."""
    words = {
        "name": subject.name,
        "uuid": subject.uuid,
        "device": subject.device,
        "quoted": shlex.quote(subject.device),
        "value": spoken(value, kind.unit),
        "threshold": spoken(threshold, kind.unit),
    }
    return kind.text.format_map(words), kind.advice.format_map(words)


def spoken(value: float, unit: Unit) -> str:
    """Return a number as people say it: 21 %, 57 ms, 12 min, 340/s."""
    if unit == "ratio":
        return f"{round(value * 100, 0 if value >= TENTH else 1):g} %"
    if unit == "seconds":
        for limit, factor, name in _TIMES:
            if value < limit:
                return f"{value * factor:.3g} {name}"
    if unit == "per_second":
        return f"{value:.3g}/s" if value < 1000 else f"{value:.0f}/s"  # noqa: PLR2004 - digits
    return f"{value:g}"


TENTH: Final = 0.1
"""A ratio from here on has no decimals."""

_TIMES: Final = (
    (1.0, 1000, "ms"),
    (120.0, 1, "s"),
    (7200.0, 1 / 60, "min"),
    (float("inf"), 1 / 3600, "h"),
)
