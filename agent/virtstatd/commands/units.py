"""Numbers for people: three digits, a unit, and a dash for what is not known."""

from __future__ import annotations

from typing import Final


UNKNOWN_TEXT: Final = "-"

_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL: Final = ("", "k", "M", "G", "T", "P")
_SMALL: Final = ((1.0, 1.0, "s"), (1e-3, 1e3, "ms"), (0.0, 1e6, "us"))
_LONG: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def ratio_text(value: float | None) -> str:
    """Return a ratio as percent: `12.3%`."""
    if value is None:
        return UNKNOWN_TEXT
    percent = value * 100
    return f"{percent:.0f}%" if percent == 0 or percent >= 99.95 else f"{percent:.1f}%"  # noqa: PLR2004


def bytes_text(value: float | None) -> str:
    """Return bytes in multiples of 1024: `1.2GiB`."""
    return _scaled(value, 1024, _BINARY)


def rate_text(value: float | None) -> str:
    """Return bytes per second in multiples of 1000, as disks and networks are sold: `3.4MB/s`."""
    return UNKNOWN_TEXT if value is None else f"{_scaled(value, 1000, _DECIMAL)}B/s"


def count_text(value: float | None) -> str:
    """Return a count, or events per second: `0.4`, `950`, `1.2k`."""
    if value is not None and 0 < value < 9.95 and value != round(value):  # noqa: PLR2004
        return f"{value:.1f}"
    return _scaled(value, 1000, _DECIMAL)


def seconds_text(value: float | None) -> str:
    """Return how long something takes or is ago: `120us`, `3.4ms`, `12s`, `5min`, `3d`."""
    if value is None:
        return UNKNOWN_TEXT
    for size, unit in _LONG:
        if value >= size:
            return f"{value / size:.0f}{unit}"
    if value == 0:
        return "0s"
    least, factor, unit = next(each for each in _SMALL if value >= each[0])
    number = value * factor
    digits = 0 if number >= 9.95 or least == 0 or number == round(number) else 1  # noqa: PLR2004
    return f"{number:.{digits}f}{unit}"


def any_text(value: object) -> str:
    """Return what is neither a number nor known in advance."""
    return UNKNOWN_TEXT if value is None else str(value)


def _scaled(value: float | None, factor: int, units: tuple[str, ...]) -> str:
    if value is None:
        return UNKNOWN_TEXT
    index = 0
    while abs(value) >= factor * 0.9995 and index < len(units) - 1:
        value /= factor
        index += 1
    digits = 1 if index and abs(value) < 99.95 else 0  # noqa: PLR2004
    return f"{value:.{digits}f}{units[index]}"
