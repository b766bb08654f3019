"""
Pictures of the dashboards, drawn from their own queries.

`PYTHONPATH=agent:tests python -m support.boards URL FOLDER MINUTES INSTANCE GUEST` asks a
Prometheus and writes `FOLDER/NAME.png`. It is not Grafana: places, titles, units and numbers are
the dashboards', the look is simpler.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import sync_playwright

from support.browser import CHROMIUM
from virtstatd.commands.dashboards import classic, read
from virtstatd.insight.wording import spoken


BOARDS = Path(__file__).parents[2] / "config" / "grafana"
COLUMN, ROW, GAP = 44, 28, 8
"""Pixels of a cell of the grid; Grafana's are of the same proportions."""

STEPS = 120
LABEL = re.compile(r"\{\{(\w+)\}\}")
COLORS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#37872d", "#fade2a")
UNITS: Final[dict[str, Any]] = {"percentunit": "ratio", "s": "seconds", "cps": "per_second"}
SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
STYLE = """
body { margin: 0; background: #111217; color: #ccccdc; font: 11px "DejaVu Sans", sans-serif }
.p { position: absolute; background: #181b1f; border: 1px solid #2c3235; overflow: hidden;
     box-sizing: border-box; padding: 4px 8px }
.row { background: none; border: 0; font-size: 14px }
h4 { margin: 0 0 3px; font-size: 12px; color: #eee } .big { font-size: 26px; line-height: 44px }
.big small { font-size: 11px } td { padding: 1px 8px 1px 0; white-space: nowrap }
i { display: inline-block; width: 10px; height: 4px; margin-right: 4px } .none { color: #777 }
.bar { background: #2c3235; height: 12px; width: 100% } .bar b { display: block; height: 12px }
span { margin-right: 9px; white-space: nowrap }
"""


@dataclass(frozen=True)
class Line:
    """One series: its name, and numbers by time."""

    name: str
    labels: dict[str, str]
    points: list[tuple[float, float]]


def said(value: float, unit: str) -> str:
    """Return a number as a panel shows it."""
    if unit in ("bytes", "Bps"):
        power = 0
        while abs(value) >= 1024 and power < len(SIZES) - 1:
            value, power = value / 1024, power + 1
        return f"{value:.3g} {SIZES[power]}" + ("/s" if unit == "Bps" else "")
    return spoken(float(f"{value:.3g}"), UNITS.get(unit, "count"))


class Drawing:
    """What a dashboard shows of the last minutes."""

    def __init__(self, url: str, minutes: float, variables: dict[str, str]) -> None:
        self.url = url
        self.end = time.time()
        self.start = self.end - 60 * minutes
        self.variables = variables

    def lines(self, panel: dict[str, Any]) -> list[Line]:
        """Ask for all series of a panel."""
        found = []
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "1m")
            for name, value in self.variables.items():
                text = text.replace(f"${name}", value)
            step = (self.end - self.start) / STEPS
            asked = {"query": text, "start": self.start, "end": self.end, "step": step}
            query = urllib.parse.urlencode(asked)
            with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{query}") as answer:
                result = json.load(answer)["data"]["result"]
            for each in result:
                labels = each["metric"]
                name = target["legendFormat"]
                for label in LABEL.findall(name):
                    name = name.replace(f"{{{{{label}}}}}", labels.get(label, ""))
                points = [(at, float(value)) for at, value in each["values"] if value != "NaN"]
                if points and (target["range"] or points[-1][0] >= self.end - 2 * step):
                    found.append(Line(name, labels, points))
        return found

    def at(self, moment: float, width: float) -> float:
        """Return where a moment is."""
        return (moment - self.start) / (self.end - self.start) * width


def color_of(value: float, panel: dict[str, Any]) -> str:
    """Return the colour of the threshold that a value has reached."""
    names = {"green": "#56a64b", "orange": "#ff9830", "red": "#e02f44"}
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    reached = [each for each in steps if each["value"] is None or value >= each["value"]]
    return names[reached[-1]["color"]]


def timeseries(of: Drawing, panel: dict[str, Any], lines: list[Line], size: tuple[int, int]) -> str:
    """Draw lines over time, stacked where the panel is, with a legend."""
    width, height = size[0] - 70, size[1] - 62
    custom = panel["fieldConfig"]["defaults"]["custom"]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    dashed = [each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]]
    shown, below = [], dict[float, float]()
    for line in lines:
        limit = any(re.fullmatch(pattern, line.name) for pattern in dashed)
        points = line.points
        if custom["stacking"]["mode"] == "normal" and not limit:
            points = [(at, value + below.get(at, 0.0)) for at, value in points]
            below |= dict(points)
        shown.append((line.name, points, limit))
    top = max([value for _, points, _ in shown for _, value in points] or [1.0]) * 1.05 or 1.0
    parts = [
        f'<line x1="0" x2="{width}" y1="{y}" y2="{y}" stroke="#2c3235"/>'
        f'<text x="{width + 4}" y="{max(9, y + 4)}" fill="#999">{number}</text>'
        for share in (0.0, 0.5, 1.0)
        for y, number in [(share * height, said(top * (1 - share), unit))]
    ]
    for number, (_, points, limit) in enumerate(shown):
        path = " ".join(
            f"{of.at(at, width):.1f},{height - value / top * height:.1f}" for at, value in points
        )
        dash = ' stroke-dasharray="6 4"' if limit else ""
        color = COLORS[number % len(COLORS)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}"{dash}/>')
    legend = "".join(
        f'<span><i style="background:{COLORS[number % len(COLORS)]}"></i>{escape(line.name)}'
        f" {said(line.points[-1][1], unit)}</span>"
        for number, line in enumerate(lines[:8])
    )
    return f'<svg width="{width + 66}" height="{height + 8}">{"".join(parts)}</svg><br>{legend}'


def stat(_: Drawing, panel: dict[str, Any], lines: list[Line], __: tuple[int, int]) -> str:
    """Show the last number of each series."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    states = (panel["fieldConfig"]["defaults"].get("mappings") or [{"options": {}}])[0]["options"]
    several = []
    for line in lines:
        last = line.points[-1][1]
        text = states.get(f"{last:g}", {}).get("text") or said(last, unit)
        name = f" <small>{escape(line.name)}</small>" if len(lines) > 1 else ""
        several.append(f'<span style="color:{color_of(last, panel)}">{text}{name}</span>')
    return f'<div class="big">{"".join(several)}</div>'


def bargauge(_: Drawing, panel: dict[str, Any], lines: list[Line], size: tuple[int, int]) -> str:
    """Show the last numbers as bars, the largest first."""
    defaults = panel["fieldConfig"]["defaults"]
    lines = sorted(lines, key=lambda line: -line.points[-1][1])[: (size[1] - 30) // 18]
    top = defaults.get("max") or max(line.points[-1][1] for line in lines) or 1.0
    rows = "".join(
        f"<tr><td>{escape(line.name)}</td><td>{said(last, defaults['unit'])}</td>"
        f'<td width="60%"><div class="bar"><b style="width:{min(100, 100 * last / top):.0f}%;'
        f'background:{color_of(last, panel)}"></b></div></td></tr>'
        for line in lines
        for last in [line.points[-1][1]]
    )
    return f'<table width="100%">{rows}</table>'


def table(_: Drawing, panel: dict[str, Any], lines: list[Line], size: tuple[int, int]) -> str:
    """Show labels and the last number."""
    columns = [*dict.fromkeys(name for line in lines for name in line.labels)]
    head = "".join(f"<td><b>{escape(each)}</b></td>" for each in [*columns, lines[0].name])
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{escape(line.labels.get(name, ''))}</td>" for name in columns)
        + f"<td>{said(line.points[-1][1], panel['fieldConfig']['defaults']['unit'])}</td></tr>"
        for line in lines[: (size[1] - 40) // 17]
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def heatmap(of: Drawing, _: dict[str, Any], lines: list[Line], size: tuple[int, int]) -> str:
    """Show how many observations each bucket got, darker for few."""
    width, height = size[0] - 70, size[1] - 40
    lines = sorted(lines, key=lambda line: float(line.labels["le"]))
    parts, below = [], dict[float, float]()
    tall, wide = height / len(lines), width / STEPS
    for number, line in enumerate(lines):
        y = height - (number + 1) * tall
        parts.append(f'<text x="{width + 4}" y="{y + tall}" fill="#999">{line.name}</text>')
        for at, value in line.points:
            more = value - below.get(at, 0.0)
            if more > 0:
                place = f'x="{of.at(at, width):.1f}" y="{y:.1f}" width="{wide + 0.5:.1f}"'
                shade = (
                    f'height="{tall:.1f}" fill="#ff9830" opacity="{min(1, 0.15 + more / 60):.2f}"'
                )
                parts.append(f"<rect {place} {shade}/>")
        below = dict(line.points)
    return f'<svg width="{width + 60}" height="{height}">{"".join(parts)}</svg>'


def timeline(of: Drawing, panel: dict[str, Any], lines: list[Line], size: tuple[int, int]) -> str:
    """Show states over time as colours, with their texts."""
    states = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    width = size[0] - 20
    parts, seen = [], dict[str, str]()
    for line in lines:
        for at, value in line.points:
            text = states.get(f"{value:g}", {}).get("text", f"{value:g}")
            seen[text] = COLORS[0] if value == 1 else COLORS[4]
            place = f'x="{of.at(at, width):.1f}" width="{width / STEPS + 0.7:.1f}"'
            parts.append(f'<rect {place} y="0" height="30" fill="{seen[text]}"/>')
    legend = "".join(f'<span><i style="background:{c}"></i>{t}</span>' for t, c in seen.items())
    return f'<svg width="{width}" height="34">{"".join(parts)}</svg><br>{legend}'


Draw = Callable[[Drawing, dict[str, Any], list[Line], tuple[int, int]], str]
KINDS: dict[str, Draw] = {
    "timeseries": timeseries,
    "stat": stat,
    "bargauge": bargauge,
    "table": table,
    "heatmap": heatmap,
    "state-timeline": timeline,
}


def page_of(model: dict[str, Any], drawing: Drawing) -> tuple[str, int]:
    """Return a dashboard as HTML, and its height."""
    parts, bottom = [], 0
    for panel in model["panels"]:
        place = panel["gridPos"]
        x, y, w = place["x"] * COLUMN, place["y"] * ROW, place["w"] * COLUMN
        size = (w - GAP, place["h"] * ROW - GAP)
        bottom = max(bottom, y + size[1] + GAP)
        inside = ""
        if panel["type"] != "row":
            lines = drawing.lines(panel)
            inside = '<div class="none">no data</div>'
            if lines:
                inside = KINDS[panel["type"]](drawing, panel, lines, size)
        where = f"left:{x + GAP}px;top:{y + GAP}px;width:{size[0]}px;height:{size[1]}px"
        kind = "p row" if panel["type"] == "row" else "p"
        title = f"<h4>{escape(panel['title'])}</h4>"
        parts.append(f'<div class="{kind}" style="{where}">{title}{inside}</div>')
    return (
        f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{''.join(parts)}",
        bottom + GAP,
    )


def main(url: str, folder: Path, minutes: float, instance: str, guest: str) -> None:
    """Write a picture of each dashboard."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for source in sorted(BOARDS.glob("*.toml")):
            dashboard = read(source)
            several = {each.name for each in dashboard.variable if each.several}
            variables = {"instance": ".+" if "instance" in several else instance, "domain": guest}
            drawing = Drawing(url, minutes, variables)
            html, height = page_of(json.loads(classic(dashboard)), drawing)
            page = browser.new_page(viewport={"width": 24 * COLUMN + 2 * GAP, "height": height})
            page.set_content(html)
            page.screenshot(path=folder / f"{source.stem}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5])
