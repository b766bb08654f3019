"""The texts of the project, and what stumbles in them: words and forms, and sentences too long."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from virtstatd.commands.cli import main
from virtstatd.commands.help import topics
from virtstatd.commands.help.blocks import Explained, Heading, HelpBlock, Paragraph
from virtstatd.commands.reference import documents
from virtstatd.config.options import options
from virtstatd.config.plugins import SINKS
from virtstatd.config.tables import TABLES
from virtstatd.pipeline.promises import PROMISES
from virtstatd.runtime.events import EVENTS


TOP = Path(__file__).parents[2]
AGENT = TOP / "agent"
WEB = AGENT / "virtstatd" / "serving" / "web"

WORDS_MAX = 30
"""Words of a sentence that users read."""

TOML_TEXTS = {"about", "advice", "description", "feature", "help", "text", "title", "note"}

EVERYWHERE = (
    r"\b(whoever|whomever|whosoever|whatsoever|whom)\b",
    r"\b(somebody|anybody|everybody|nobody)\b",
    r"\b(tells?|told|telling)\b",
    r"\bmend(s|ed|ing)?\b",
    r"\bfor ever\b",
    r"\b(gives?|gave|giving) way\b",
    r"\b(rob|robs|robbed|pays?)\b",
    r"\bof (its|their) own accord\b",
    r"\bin vain\b",
    r"\ball the same\b",
    r"\b(is|are|was|were|be|been|being)( not| never)?( \w+ly)? asked\b",
    r"\bit is that\b",
    r"\bbe it\b",
    r"\bof late\b",
    r"\b(hence|thereof|therein|thereby|whereby|wherein|henceforth|lest|whilst)\b",
    r"\banew\b",
    r"\b(speaks|speak|spoken|hears?|heard|begun|seldom|shall|ought)\b",
    r"\ba look\b",
    r"\bstands? still\b",
    r"\bbut for\b",
)
"""What readers stumble over: words of persons for machines, old words, hidden agents."""

FOR_USERS = (
    r"\b(says?|said)\b",
    r"\b(asks?|asked|asking)\b",
    r"\bbeside\b",
    r"\bwins\b",
    r"\b(each|one|two|every|last|next) looks?\b",
    r"\bby turns\b",
)
"""More of it, in texts that users read."""

_SPAN = re.compile(r"(`+)(?:.|\n)+?\1")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_END = re.compile(r"""(?<=[.!?])["')\]*]*\s+""")
_SHORT = re.compile(r"\b(e\.g|i\.e|etc|vs|approx|No)\.", re.IGNORECASE)
_WORD = re.compile(r"\w")
_FORMS = [re.compile(form, re.IGNORECASE) for form in (*EVERYWHERE, *FOR_USERS)]


@dataclass(frozen=True, slots=True)
class Text:
    """A text, where it is, and whether users read it, so that its sentences must be short."""

    where: str
    text: str
    read: bool = True


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text; code, names and links count as one word each."""
    plain = _LINK.sub(lambda found: found[1] or "link", _SPAN.sub("`code`", text))
    plain = _SHORT.sub(lambda found: found[0].replace(".", ""), plain)
    for paragraph in re.split(r"\n\s*\n", plain):
        yield from (each for each in _END.split(" ".join(paragraph.split())) if each)


def too_long(text: str) -> Iterator[str]:
    """Yield the sentences with too many words."""
    for each in sentences(text):
        if sum(bool(_WORD.search(word)) for word in each.split()) > WORDS_MAX:
            yield each


def stumbles(text: Text) -> Iterator[str]:
    """Yield what readers stumble over, with the words around it; code is not read."""
    plain = " ".join(_SPAN.sub("``", text.text).split())
    for form in _FORMS if text.read else _FORMS[: len(EVERYWHERE)]:
        for found in form.finditer(plain):
            yield f"{found[0]!r} in: {plain[max(0, found.start() - 50) : found.end() + 50]}"


def markdown() -> Iterator[Text]:
    """Yield the paragraphs, items, headings and cells of all Markdown files."""
    for file in documents():
        for line, text in prose(file.read_text(encoding="utf-8")):
            yield Text(f"{file.relative_to(TOP)}:{line}", text)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the blocks of Markdown with their lines, without fenced code and comments."""
    block: list[str] = []
    start, fenced = 1, False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        bare = line.strip()
        if bare.startswith("```"):
            fenced = not fenced
            bare = ""
        elif fenced:
            continue
        table = bare.startswith("|")
        item = re.match(r"([-*+]|\d+\.)\s|#+\s|>|<", bare)
        if block and (not bare or table or item):
            yield start, "\n".join(block)
            block = []
        if table:
            yield from ((number, cell) for cell in re.split(r"(?<!\\)\|", bare) if cell.strip())
        elif bare and not bare.startswith("<"):
            start = start if block else number
            block.append(re.sub(r"^([-*+]|\d+\.|#+|>)\s+", "", bare))
            if bare.startswith("#"):
                yield start, block.pop()


def options_read() -> Iterator[Text]:
    """Yield the texts of tables, sinks and their options."""
    for name in topics.names_of_topics():
        yield from _blocks(name, topics.exact(name))
    yield from _blocks("help", topics.topics())
    for name, cls in (*TABLES.items(), *((name, SINKS.find(name)) for name in SINKS.names())):
        for option in options(cls):
            yield Text(f"{name}.{option.name}", option.description)


def _blocks(name: str, blocks: Iterator[HelpBlock] | list[HelpBlock]) -> Iterator[Text]:
    for block in blocks:
        match block:
            case Heading() | Paragraph():
                yield Text(f"help {name}", block.text)
            case Explained():
                yield Text(f"help {name} {block.term}", block.text)
                yield Text(f"help {name} {block.term}", block.action.partition("  # ")[2])


def helps() -> Iterator[Text]:
    """Yield the help of commands and of their options."""
    found: list[tuple[str, click.Command]] = [("virtstatd", main)]
    for name, command in found:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for each in command.list_commands(context):
                inner = command.get_command(context, each)
                found += [(f"{name} {each}", inner)] if inner else []
        yield Text(f"{name} --help", (command.help or "").replace("\b", ""))
        for parameter in command.params:
            yield Text(f"{name} --help", getattr(parameter, "help", None) or "")


def events() -> Iterator[Text]:
    """Yield the meanings of events and what to do, and what sinks promise."""
    for name, event in EVENTS.items():
        yield from (Text(f"event {name}", each) for each in (event.meaning, event.action))
    for delivery, promise in PROMISES.items():
        yield Text(f"delivery {delivery}", promise.text)


def tables() -> Iterator[Text]:
    """Yield what TOML files describe: the catalog, names of other tools, alerts, dashboards."""
    for file in sorted([*AGENT.rglob("*.toml"), *(TOP / "config").rglob("*.toml")]):
        found = tomllib.loads(file.read_text(encoding="utf-8"))
        yield from _values(str(file.relative_to(TOP)), "", found)


def _values(where: str, key: str, value: Any) -> Iterator[Text]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _values(f"{where} {name}", "text" if key == "missing" else name, each)
    elif isinstance(value, list):
        for each in value:
            yield from _values(where, key, each)
    elif isinstance(value, str) and key in TOML_TEXTS:
        yield Text(where, value)


def code() -> Iterator[Text]:
    """Yield the docstrings and other texts of the agent's and the simulator's modules."""
    for file in sorted(AGENT.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and " " in str(node.value):
                where = f"{file.relative_to(TOP)}:{node.lineno}"
                yield from (Text(where, each, read=False) for each in str(node.value).split("\n\n"))


def page() -> Iterator[Text]:
    """Yield the lines of the modules of the page."""
    for file in sorted(each for each in WEB.glob("*.*") if each.suffix in (".html", ".js")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            yield Text(f"{file.relative_to(TOP)}:{number}", line, read=False)


SOURCES: dict[str, Callable[[], Iterator[Text]]] = {
    "markdown": markdown,
    "options": options_read,
    "help": helps,
    "events": events,
    "tables": tables,
    "code": code,
    "page": page,
}
