"""What documents are made of, and times as they have them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


Document = dict[str, Any]
"""Of types of JSON."""


def stamp(nanoseconds: int) -> str:
    """Return a Unix time in nanoseconds as ISO 8601 with milliseconds, in UTC."""
    at = datetime.fromtimestamp(nanoseconds // 1_000_000 / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
