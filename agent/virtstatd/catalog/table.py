"""Tables of text, for a terminal and for the README."""

from __future__ import annotations

from collections.abc import Sequence


TableRow = Sequence[str]


def plain(head: TableRow, rows: Sequence[TableRow]) -> str:
    """Return aligned columns under an upper-case head, the last column unbounded."""
    table = [[cell.upper() for cell in head], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in table
    )


def markdown(head: TableRow, rows: Sequence[TableRow]) -> str:
    """Return a Markdown table, the first column as code."""
    lines = [head, ["---"] * len(head)]
    lines += [[f"`{first}`", *rest] for first, *rest in rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )
