"""
All measurements in one table and one file, and the chart of the README.

`PYTHONPATH=agent:tests python -m support.bench_table build/bench` reads the files of the single
measurements, prints a line for each figure and writes `build/bench.json`. Where the tools were
compared on real guests, `config/pictures/cost.svg` is drawn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any


CHART = Path(__file__).parents[2] / "config" / "pictures" / "cost.svg"
WIDTH, NAMES, ROW, TOP = 720, 250, 34, 58
BARS = WIDTH - NAMES - 150
PARTS = (("tool", "#3465a4"), ("libvirtd", "#f5a623"), ("guests", "#8f9aa7"))
STYLE = 'font-family="DejaVu Sans, Verdana, sans-serif" font-size="13" fill="#1a1a1a"'


def figures(value: Any, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield each figure of a measurement with the names that lead to it."""
    if isinstance(value, dict):
        own = value.get("name", "")
        for key, each in value.items():
            if key != "name":
                yield from figures(each, " / ".join(filter(None, (name, own, key))))
    elif isinstance(value, list):
        for each in value:
            yield from figures(each, name)
    else:
        yield name, value


def chart(result: dict[str, Any]) -> str:
    """Return the CPU time of each tool, of libvirtd and of the guests' QEMUs as bars."""
    tools = {name: window for name, window in result["tools"].items() if window["series"]}
    longest = max(sum(window[part] for part, _ in PARTS) for window in tools.values())
    height = TOP + ROW * len(tools) + 10
    title = f"CPU time for {result['guests']} real guests, milliseconds a second (series shown)"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/><g {STYLE}>',
        f'<text x="10" y="20">{title}</text>',
    ]
    at = 10
    for part, color in PARTS:
        lines.append(f'<rect x="{at}" y="32" width="12" height="12" fill="{color}"/>')
        lines.append(f'<text x="{at + 18}" y="43">{part if part != "guests" else "QEMUs"}</text>')
        at += 100
    for number, (name, window) in enumerate(tools.items()):
        y, x = TOP + ROW * number, float(NAMES)
        lines.append(f'<text x="{NAMES - 8}" y="{y + 17}" text-anchor="end">{escape(name)}</text>')
        for part, color in PARTS:
            width = BARS * window[part] / longest
            lines.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="24" fill="{color}"/>'
            )
            x += width
        total = sum(window[part] for part, _ in PARTS)
        text = f"{total:.0f} ({window['series']:,.0f})"
        lines.append(f'<text x="{x + 8:.1f}" y="{y + 17}">{text}</text>')
    return "\n".join([*lines, "</g></svg>", ""])


def main() -> None:
    """Print the table, and write the file and the chart."""
    folder = Path(sys.argv[1])
    results = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    for name, value in figures(results):
        sys.stdout.write(f"{name:<90} {value:>12}\n")
    (folder.parent / "bench.json").write_text(json.dumps(results, indent=1) + "\n")
    if compared := results.get("host_bench"):
        CHART.write_text(chart(compared))


if __name__ == "__main__":
    main()
