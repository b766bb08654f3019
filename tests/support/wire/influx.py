"""Line protocol as a database must have it, by the rules and not by the encoder."""

import math
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from virtstatd.model import Batch, Kind, Reading


SUFFIXES = {Kind.COUNTER: "_total", Kind.INFO: "_info"}
DEVICES = {"target_device", "vcpu", "iothread", "index"}

Tags = frozenset[tuple[str, str]]
Rows = dict[tuple[str, Tags], dict[str, float | str]]
"""Fields by measurement and tags."""


def of_guests(batch: Batch) -> Batch:
    """Leave out what has no domain: an empty name makes no tag, so the two would be one."""
    return replace(batch, readings=tuple(each for each in batch.readings if each.domain))


def carried(text: str) -> str:
    """Return a tag as it arrives."""
    text = text.encode("utf-8", "backslashreplace").decode().replace("\n", "␊")
    done = ""
    for index, char in enumerate(text):
        rest = text[index:].lstrip("\\")
        ambiguous = char == "\\" and (not rest or rest[0] in ",= ")
        done += "\N{FULLWIDTH REVERSE SOLIDUS}" if ambiguous else char
    return done


def wanted(readings: Iterable[Reading], **common: str) -> Rows:
    """Return what must arrive."""
    rows: Rows = {}
    for reading in readings:
        measurement = f"libvirt_{reading.shape.group}"
        for series, value in zip(reading.shape.series, reading.values, strict=True):
            if not math.isfinite(value):
                continue
            field = series.field
            name = (field.family + SUFFIXES.get(field.kind, "")).replace("_info_info", "_info")
            name = name.removeprefix("libvirt_domain_") + (f"_{series.part}" if series.part else "")
            labels = dict(series.labels)
            fields: dict[str, float | str]
            if field.kind is Kind.INFO:
                fields = {f"{name}_{key}": labels.pop(key) for key in set(labels) - DEVICES}
            else:
                scale = field.exponent if series.part in ("", "sum") else 0
                fields = {name: float(Fraction(value) * Fraction(10) ** scale)}
            if "le" in labels:
                labels["le"] = str(float(labels["le"])).replace("inf", "+Inf")
            labels |= common | (dict(reading.domain.labels) if reading.domain else {})
            tags = frozenset((key, carried(text)) for key, text in labels.items() if text)
            row = rows.setdefault((measurement, tags), {})
            assert not row.keys() & fields.keys()
            row |= fields
    return rows


def parsed(text: bytes) -> tuple[Rows, set[int]]:
    """Read line protocol as its specification has it, character by character."""
    rows: Rows = {}
    times = set()
    rest = text.decode()
    while rest:
        head, rest = _until(rest, " ")
        (measurement, *pairs) = _split(head, ",")
        tags = frozenset((_plain(key), _plain(value)) for key, value in map(_pair, pairs))
        fields: dict[str, float | str] = {}
        end = ","
        while end == ",":
            key, rest = _until(rest, "=")
            if rest.startswith('"'):
                value, rest, end = _string(rest)
                fields[key] = value
            else:
                number, rest, end = _number(rest)
                fields[key] = float(number)
        time, rest = rest.split("\n", 1)
        times.add(int(time))
        assert (_plain(measurement), tags) not in rows or not (
            rows[_plain(measurement), tags].keys() & fields.keys()
        )
        rows.setdefault((_plain(measurement), tags), {}).update(fields)
    return rows, times


def _until(text: str, stop: str) -> tuple[str, str]:
    index = 0
    while text[index] != stop:
        assert text[index] != "\n"
        index += 2 if text[index] == "\\" and text[index + 1] in ",= " else 1
    return text[:index], text[index + 1 :]


def _split(text: str, at: str) -> list[str]:
    parts = [""]
    index = 0
    while index < len(text):
        step = 2 if text[index] == "\\" and text[index + 1 : index + 2] in (",", "=", " ") else 1
        if text[index] == at:
            parts.append("")
        else:
            parts[-1] += text[index : index + step]
        index += step
    return parts


def _pair(text: str) -> tuple[str, str]:
    key, value = _split(text, "=")
    assert key
    assert value
    return key, value


def _plain(text: str) -> str:
    for char in ",= ":
        text = text.replace(f"\\{char}", char)
    return text


def _string(text: str) -> tuple[str, str, str]:
    value = ""
    index = 1
    while text[index] != '"':
        index += text[index] == "\\" and text[index + 1] in '"\\'
        value += text[index]
        index += 1
    return value, text[index + 2 :], text[index + 1]


def _number(text: str) -> tuple[str, str, str]:
    index = min(place for place in (text.find(","), text.find(" ")) if place >= 0)
    return text[:index], text[index + 1 :], text[index]
