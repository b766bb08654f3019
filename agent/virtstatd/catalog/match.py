"""Finds the lines for a key: a tree of tokens, where a placeholder stands for any one of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from virtstatd.catalog.lines import Line


@dataclass(frozen=True, slots=True)
class Match:
    """The lines for one key, and the key's tokens after that of its group."""

    lines: tuple[Line, ...]
    tokens: tuple[str, ...]


@dataclass(slots=True)
class Tree:
    """The patterns of one group, merged where they begin alike."""

    literal: dict[str, Tree] = field(default_factory=dict)
    other: Tree | None = None
    lines: tuple[Line, ...] = ()

    def plant(self, lines: tuple[Line, ...]) -> None:
        """Add the lines of one key."""
        tree = self
        for token in lines[0].tokens:
            if token.startswith("{"):
                tree.other = tree.other or Tree()
                tree = tree.other
            else:
                tree = tree.literal.setdefault(token, Tree())
        tree.lines = lines

    def find(self, tokens: tuple[str, ...]) -> tuple[Line, ...]:
        """Return the lines of the pattern that fits, literal tokens before placeholders."""
        if not tokens:
            return self.lines
        literal = self.literal.get(tokens[0])
        return (literal.find(tokens[1:]) if literal else ()) or (
            self.other.find(tokens[1:]) if self.other else ()
        )
