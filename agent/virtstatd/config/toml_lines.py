"""
Read a TOML file with the line of each key, so that an error can name its line.

The standard library's parser keeps no positions. The scanner here walks a document that the parser
has already accepted, so it validates nothing: it only has to skip each value correctly, in one pass
and in time linear in the length of the text.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Final

from virtstatd.errors import ConfigError


MAX_BYTES: Final = 1 << 20

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\n]+|#[^\n]*)+")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^\n,\]}#]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLACE = re.compile(
    r"(?P<what>.+) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL
)
_PLAIN: Final = {
    "Invalid value": "invalid value; strings stand in quotes, true and false in small letters",
    "Expected newline or end of document": "text follows the value; strings stand in quotes",
    "Illegal character '\\n'": "the string has no closing quote",
    "Cannot overwrite a value": "this option is written twice",
    "Cannot declare": "this table is written twice",
}


def text_of(path: FilePath) -> str:
    """Read a file of a plausible size, or raise `ConfigError` with the fix."""
    raw = b""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ConfigError([f"{path}: is larger than {MAX_BYTES} bytes; name the right file"])
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        fix = "create it, or leave the option out to run on the defaults"
        raise ConfigError([f"{path}: there is no such file; {fix}"]) from None
    except PermissionError:
        fix = "let the user that runs virtstatd read it"
        raise ConfigError([f"{path}: permission denied; {fix}"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: is a directory; name the file in it"]) from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8; save it in that encoding"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None


def parsed(text: str, file: str) -> tuple[dict[str, object], dict[Path, int]]:
    """Return the document and the line of each key path, or raise `ConfigError`."""
    try:
        return tomllib.loads(text), lines_of(text)
    except RecursionError:
        raise ConfigError([f"{file}: arrays or tables are nested too deeply"]) from None
    except ValueError as error:
        raise ConfigError([f"{file}:{_syntax(str(error), text)}"]) from None


def lines_of(text: str) -> dict[Path, int]:
    """
    Return the line, counted from 1, on which each key path of a valid document is first written.

    Array elements are integers in the path, counted from 0: `("sink", 1, "url")`.
    """
    return _Scanner(text.replace("\r\n", "\n")).document()


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """Return the line of the path or of the nearest table around it, 1 when none is written."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 1


def _syntax(message: str, text: str) -> str:
    """Turn the parser's `What (at line 3, column 7)` into `3:7: what`."""
    placed = _PLACE.fullmatch(message)
    if placed is None:
        return f" {message}"
    what = placed["what"]
    for start, plain in _PLAIN.items():
        if what.startswith(start):
            what = plain
    what = what[0].lower() + what[1:]
    if placed["line"]:
        return f"{placed['line']}:{placed['column']}: {what}"
    last = text.rstrip("\n").rpartition("\n")[2]
    return f"{text.rstrip().count(chr(10)) + 1}:{len(last) + 1}: {what} at the end of the file"


class _Scanner:
    """One walk over one document; `at` is the offset of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.last: dict[Path, int] = {}  # array of tables: the index of its newest element
        self.line = 1
        self.counted = 0

    def document(self) -> dict[Path, int]:
        table: Path = ()
        self.blank()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.blank()
        return self.lines

    def header(self) -> Path:
        array = self.text.startswith("[[", self.at)
        line = self.now()
        self.at += 2 if array else 1
        names = self.key()
        self.at += 2 if array else 1
        path: Path = ()
        for position, name in enumerate(names, start=1):
            path = self.mark(path, name, line)
            if array and position == len(names):
                self.last[path] = self.last.get(path, -1) + 1
            if path in self.last:  # `[a.b]` below `[[a]]` belongs to the newest a
                path = self.mark(path, self.last[path], line)
        return path

    def pair(self, table: Path) -> None:
        line = self.now()
        path = table
        for name in self.key():
            path = self.mark(path, name, line)
        self.at += 1  # the equals sign, where key() stopped
        self.blank()
        self.value(path)

    def key(self) -> list[str]:
        """Read a dotted key and stop at what ends it: `=` or `]`."""
        names: list[str] = []
        while True:
            self.blank()
            if quoted := _STRING.match(self.text, self.at):
                # the parser knows the escapes
                names.append(str(tomllib.loads(f"key = {quoted[0]}")["key"]))
                self.at = quoted.end()
            else:
                names.append(self.step(_BARE))
            self.blank()
            if self.text[self.at] != ".":
                return names
            self.at += 1

    def value(self, path: Path) -> None:
        if string := _STRING.match(self.text, self.at):
            self.at = string.end()
        elif self.text[self.at] == "[":
            self.members(path, "]")
        elif self.text[self.at] == "{":
            self.members(path, "}")
        else:
            self.step(_SCALAR)

    def members(self, path: Path, end: str) -> None:
        """Step over an array or an inline table and mark what is in it."""
        self.at += 1
        index = 0
        self.blank()
        while self.text[self.at] != end:
            if end == "]":
                self.value(self.mark(path, index, self.now()))
                index += 1
            else:
                self.pair(path)
            self.blank()
            if self.text[self.at] == ",":
                self.at += 1
                self.blank()
        self.at += 1

    def mark(self, path: Path, name: str | int, line: int) -> Path:
        path = (*path, name)
        self.lines.setdefault(path, line)
        return path

    def now(self) -> int:
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def blank(self) -> None:
        if blank := _BLANK.match(self.text, self.at):
            self.at = blank.end()

    def step(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not the document that was parsed, at offset {self.at}")
        self.at = match.end()
        return match[0]
