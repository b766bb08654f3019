"""
Write Grafana's dashboards: `python -m virtstatd.commands.dashboards config/grafana`.

Each `NAME.toml` of the folder says what a dashboard shows; `NAME.json` beside it is the same in
Grafana's classic model, schema 39, which Grafana 10.4 and later import. Ids, positions and all that
panels have in common are made here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct


SCHEMA_VERSION: Final = 39
COLUMNS: Final = 24
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
UNITS: Final = {
    "ratio": "percentunit",
    "bytes": "bytes",
    "bytes_per_second": "Bps",
    "per_second": "cps",
    "iops": "iops",
    "seconds": "s",
    "count": "short",
}
"""Units of the agent, and what Grafana calls them."""

Width = Annotated[int, Meta(ge=1, le=COLUMNS)]


class _Query(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    expr: str
    legend: str = ""


class _Panel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    One panel.

    `dashed` is a pattern of the names of series that are limits; `max` ends the scale. A table has
    one column for each query, headed by its legend.
    """

    title: Annotated[str, Meta(min_length=1)]
    description: Annotated[str, Meta(min_length=10)]
    query: Annotated[list[_Query], Meta(min_length=1)]
    kind: Literal["timeseries", "stat", "table", "bargauge", "heatmap", "state-timeline"] = (
        "timeseries"
    )
    unit: Literal[
        "ratio", "bytes", "bytes_per_second", "per_second", "iops", "seconds", "count"
    ] = "count"
    width: Width = 12
    height: Annotated[int, Meta(ge=2, le=COLUMNS)] = 8
    stacked: bool = False
    dashed: str = ""
    max: float | None = None
    thresholds: list[float] = []
    states: dict[str, str] = {}


class _Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    title: str
    panel: list[_Panel]


class _Variable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    label: str
    query: str
    several: bool = False


class Dashboard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a dashboard shows."""

    title: str
    uid: str
    description: str
    row: list[_Row]
    variable: list[_Variable] = []

    @property
    def queries(self) -> list[str]:
        """All expressions."""
        return [each.expr for row in self.row for panel in row.panel for each in panel.query]


def read(file: Path) -> Dashboard:
    """Return what a file says; raises `msgspec.ValidationError` naming what is wrong."""
    return msgspec.toml.decode(file.read_bytes(), type=Dashboard)


def classic(dashboard: Dashboard) -> str:
    """Return a dashboard in Grafana's classic model."""
    model = {
        "title": dashboard.title,
        "uid": dashboard.uid,
        "description": dashboard.description,
        "tags": ["virtstatd", "libvirt"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "",
        "graphTooltip": 1,
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "tags": ["virtstatd"],
                "title": "virtstatd",
                "icon": "dashboard",
                "tooltip": "",
                "asDropdown": True,
                "targetBlank": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [_datasource(), *map(_variable, dashboard.variable)]},
        "panels": list(_panels(dashboard)),
    }
    return json.dumps(model, indent=2, ensure_ascii=False) + "\n"


def _datasource() -> dict[str, Any]:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
    }


def _variable(of: _Variable) -> dict[str, Any]:
    return {
        "type": "query",
        "name": of.name,
        "label": of.label,
        "datasource": SOURCE,
        "definition": of.query,
        "query": {"query": of.query, "refId": of.name},
        "refresh": 2,
        "sort": 1,
        "multi": of.several,
        "includeAll": of.several,
        **({"allValue": ".*"} if of.several else {}),
    }


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for row in dashboard.row:
        number += 1
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        top += 1
        left = highest = 0
        for panel in row.panel:
            if left + panel.width > COLUMNS:
                left, top, highest = 0, top + highest, 0
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            left, highest = left + panel.width, max(highest, panel.height)
        top += highest


def _panel(panel: _Panel) -> dict[str, Any]:
    now = panel.kind in {"stat", "table", "bargauge"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [_target(panel, at, now=now) for at in range(len(panel.query))],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _OPTIONS[panel.kind],
        **({"transformations": _columns(panel)} if panel.kind == "table" else {}),
    }


def _target(panel: _Panel, at: int, *, now: bool) -> dict[str, Any]:
    query = panel.query[at]
    heat, table = panel.kind == "heatmap", panel.kind == "table"
    return {
        "refId": chr(ord("A") + at),
        "datasource": SOURCE,
        "expr": query.expr.strip(),
        "legendFormat": query.legend or "__auto",
        "format": "heatmap" if heat else "table" if table else "time_series",
        "instant": now,
        "range": not now,
    }


def _defaults(panel: _Panel) -> dict[str, Any]:
    colors = ["green", "orange", "red"]
    steps: list[dict[str, Any]] = [{"color": colors[0], "value": None}]
    steps += [
        {"color": color, "value": value}
        for color, value in zip(colors[1:], panel.thresholds, strict=False)
    ]
    found: dict[str, Any] = {
        "unit": UNITS[panel.unit],
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.max is not None:
        found["max"] = panel.max
    if panel.kind == "timeseries":
        found["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 40 if panel.stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    if panel.states:
        texts = {
            value: {"text": text, "index": at}
            for at, (value, text) in enumerate(panel.states.items())
        }
        found["mappings"] = [{"type": "value", "options": texts}]
    return found


def _overrides(panel: _Panel) -> list[dict[str, Any]]:
    if not panel.dashed:
        return []
    line = {"fill": "dash", "dash": [8, 6]}
    return [
        {
            "matcher": {"id": "byRegexp", "options": panel.dashed},
            "properties": [
                {"id": "custom.lineStyle", "value": line},
                {"id": "custom.fillOpacity", "value": 0},
                {"id": "custom.stacking", "value": {"mode": "none", "group": "B"}},
            ],
        }
    ]


def _columns(panel: _Panel) -> list[dict[str, Any]]:
    names = {f"Value #{chr(ord('A') + at)}": each.legend for at, each in enumerate(panel.query)}
    names |= {"Value": panel.query[0].legend}
    return [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
    ]


_REDUCE: Final = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_LEGEND: Final = {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {"reduceOptions": _REDUCE, "colorMode": "background_solid", "graphMode": "none"},
    "table": {"showHeader": True, "sortBy": []},
    "bargauge": {"reduceOptions": _REDUCE, "orientation": "horizontal", "displayMode": "basic"},
    "heatmap": {
        "calculate": False,
        "yAxis": {"unit": "percentunit"},
        "tooltip": {"mode": "single"},
    },
    "state-timeline": {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8},
}


if __name__ == "__main__":
    for source in sorted(Path(sys.argv[1]).glob("*.toml")):
        source.with_suffix(".json").write_text(classic(read(source)), encoding="utf-8")
