"""The line index: every key path of a document, on the line where it is written."""

from __future__ import annotations

import json
import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtstatd.config.toml_lines import Path, line_of, lines_of


BARE = st.text("abcXYZ019_-", min_size=1, max_size=4)
HOSTILE = st.sampled_from(
    ["]", "[x]", "[[x]]", "# no", "a = 1", "'", '"', '""', "\\", "\n", ",", "}", "{", "é", "=", ""]
)
TEXTS = st.lists(HOSTILE, max_size=5).map("".join)
SCALARS = st.sampled_from(
    ["1", "0x1F", "1_000.5e-3", "true", "nan", "1979-05-27 07:32:00Z", "07:32:00"]
)


class _Writer:
    """Writes a document statement by statement and keeps what stands on which line."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.expected: dict[Path, int] = {}

    def mark(self, path: Path) -> None:
        self.expected.setdefault(path, self.text.count("\n") + 1)

    def name(self, used: set[str]) -> str:
        name = self.draw((BARE | TEXTS).filter(lambda each: each not in used))
        used.add(name)
        return name

    def key(self, name: str) -> str:
        plain = name and all(each in "abcXYZ019_-" for each in name)
        if plain and self.draw(st.booleans()):
            return name
        if "'" not in name and "\n" not in name and self.draw(st.booleans()):
            return f"'{name}'"
        return json.dumps(name)

    def break_line(self) -> None:
        self.text += self.draw(st.sampled_from(["", " ", "\n", " # ], } '''\n", "\n\n \t"]))

    def value(self, path: Path, depth: int) -> None:
        kinds = ["scalar", "basic", "long", "literal"]
        kind = self.draw(st.sampled_from(kinds + (["array", "inline"] if depth else [])))
        if kind == "array":
            self.text += "["
            self.break_line()
            for index in range(self.draw(st.integers(0, 3))):
                self.mark((*path, index))
                self.value((*path, index), depth - 1)
                self.break_line()
                self.text += ","
                self.break_line()
            self.text += "]"
        elif kind == "inline":
            self.text += "{ "
            used: set[str] = set()
            for index in range(self.draw(st.integers(0, 3))):
                self.text += ", " if index else ""
                self.pair(path, used, depth - 1)
            self.text += " }"
        elif kind == "scalar":
            self.text += self.draw(SCALARS)
        elif kind == "basic":
            self.text += json.dumps(self.draw(TEXTS))
        elif kind == "long":
            inner = self.draw(TEXTS).replace("\\", "\\\\").replace('"""', '""\\"')
            ending = self.draw(st.sampled_from(["", '"', '""', '\\"', "\\\n  "]))
            self.text += f'"""{inner} {ending}"""'
        else:
            quotes = self.draw(st.sampled_from(["", "'", "''"]))
            self.text += f"'''{self.draw(TEXTS).replace(chr(39), '')}{quotes}'''"

    def pair(self, table: Path, used: set[str], depth: int) -> None:
        names = [self.name(used)]
        if self.draw(st.booleans()):
            names.append(self.name(set()))
        for position in range(len(names)):
            self.mark((*table, *names[: position + 1]))
        self.text += self.draw(st.sampled_from([".", " . "])).join(map(self.key, names))
        self.text += self.draw(st.sampled_from(["=", " = ", "\t=  "]))
        self.value((*table, *names), depth)

    def pairs(self, table: Path, used: set[str]) -> None:
        for _ in range(self.draw(st.integers(0, 3))):
            self.pair(table, used, depth=2)
            self.text += self.draw(st.sampled_from(["\n", " # a = '''\n", "\n\n"]))

    def header(self, shown: list[str], path: Path, *, array: bool) -> None:
        for length in range(1, len(path) + 1):
            self.mark(path[:length])
        dotted = self.draw(st.sampled_from([".", " . "])).join(map(self.key, shown))
        self.text += f"[[ {dotted} ]]\n" if array else f"[{dotted}] # ]\n"

    def document(self) -> None:
        used: set[str] = set()
        self.pairs((), used)
        for _ in range(self.draw(st.integers(0, 3))):
            top = self.name(used)
            if self.draw(st.booleans()):
                self.header([top], (top,), array=False)
                self.pairs((top,), set())
                continue
            for index in range(self.draw(st.integers(1, 3))):
                self.header([top], (top, index), array=True)
                inside: set[str] = set()
                self.pairs((top, index), inside)
                inner = self.name(inside)
                array = self.draw(st.booleans())
                path: Path = (top, index, inner, 0) if array else (top, index, inner)
                self.header([top, inner], path, array=array)
                self.pairs(path, set())


@st.composite
def _documents(draw: st.DrawFn) -> _Writer:
    writer = _Writer(draw)
    writer.document()
    return writer


def paths(value: object, path: Path = ()) -> set[Path]:
    """Return every key path of a parsed document."""
    members: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        members = list(value.items())
    elif isinstance(value, list):
        members = list(enumerate(value))
    own = {path} if path else set()
    return own.union(*(paths(member, (*path, name)) for name, member in members))


@pytest.mark.slow
@given(_documents())
def test_every_key_path_is_found_on_its_line(document: _Writer) -> None:
    """Every key path of any document, and no other, is found on the line that writes it first."""
    parsed = tomllib.loads(document.text)
    lines = lines_of(document.text)
    assert set(lines) == paths(parsed)
    assert lines == document.expected


@pytest.mark.slow
@given(_documents())
def test_line_ends_of_windows_change_nothing(document: _Writer) -> None:
    """A file with CRLF line ends has its keys on the same lines."""
    text = document.text.replace("\n", "\r\n")
    tomllib.loads(text)
    assert lines_of(text) == document.expected


def test_a_path_that_is_not_written_has_the_line_of_what_is_around_it() -> None:
    """A missing option is reported at its table, a missing table at the top."""
    lines = lines_of("\n[a]\n[[b]]\n[[b]]\nc = 1\n")
    assert line_of(lines, ("b", 1, "gone", 3)) == 4
    assert line_of(lines, ("gone",)) == 1


@pytest.mark.timing
@pytest.mark.parametrize(
    "unit", ["k{} = 1\n", "[[t]]\nk = [1, 2]\n", '# c\n[t{}]\nk = """\n\n"""\n']
)
def test_time_grows_with_the_text_alone(unit: str) -> None:
    """A document eight times as long takes about eight times as long, not sixty-four."""

    def seconds(times: int) -> float:
        text = "".join(unit.format(index) for index in range(times))
        best = float("inf")
        for _ in range(3):
            start = time.thread_time()
            lines_of(text)
            best = min(best, time.thread_time() - start)
        return best

    assert seconds(8000) < 24 * seconds(1000)
