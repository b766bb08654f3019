"""Choices of metrics for receivers that want less than everything: one TOML file each."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources


@cache
def profile(name: str) -> tuple[str, ...]:
    """
    Return the patterns of metric names that a profile keeps.

    Raises FileNotFoundError where there is no such profile.
    """
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    parts: dict[str, list[str]] = tomllib.loads(text)
    return tuple(pattern for part in parts.values() for pattern in part)
