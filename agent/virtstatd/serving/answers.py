"""Documents as answers: JSON, numbers of a query, errors, and work in small steps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from virtstatd.insight.columns import GuestRow
from virtstatd.insight.filters import FilterError
from virtstatd.serving.http import Response


JSON: Final = "application/json"
STEP_SECONDS: Final = 0.004
"""The loop belongs to others after that long."""

NUMBER_MAX: Final = 100_000


async def in_steps(rows: Iterable[GuestRow]) -> list[GuestRow]:
    """Return all rows, with a pause for others each few milliseconds."""
    made: list[GuestRow] = []
    ends = time.monotonic() + STEP_SECONDS
    for row in rows:
        made.append(row)
        if time.monotonic() >= ends:
            await asyncio.sleep(0)
            ends = time.monotonic() + STEP_SECONDS
    return made


def number_asked(query: Mapping[str, str], name: str) -> int | None:
    """Return a whole number of a query, None where it is not there."""
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text[:8]) > NUMBER_MAX:
        raise FilterError(f"{name} must be a number from 0 to {NUMBER_MAX}")
    return int(text[:8])


def encoded(document: Any) -> bytes:
    """Return JSON; a character that is none in Unicode becomes a question mark."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return msgspec.json.encode(_replaced(document))


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {_replaced(key): _replaced(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each) for each in value]
    return value


def refused(text: str, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as JSON."""
    body = encoded({"error": text})
    return Response((body,), len(body), JSON, status, headers or {})


def tag_matches(wanted: str, tag: str) -> bool:
    """Return whether a header `If-None-Match` has a tag."""
    return wanted == "*" or tag in (each.strip().removeprefix("W/") for each in wanted.split(","))
