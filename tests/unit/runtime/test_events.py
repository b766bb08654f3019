"""Every event that is logged is in the table, and every event of the table is logged."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import virtstatd
from virtstatd.runtime.events import EVENTS


AGENT = Path(virtstatd.__file__).parent
FORM = re.compile(r"[a-z_]+\.[a-z_]+")
LEVELS = {"debug", "info", "warning", "error", "critical"}


def logged() -> Iterator[tuple[str, str]]:
    """Yield the name and the level of each event in the agent's source."""
    for file in AGENT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=of, attr=level), args=[name, *_]) if (
                    level in LEVELS and "log" in ast.unparse(of)
                ):
                    names = [name.body, name.orelse] if isinstance(name, ast.IfExp) else [name]
                    for each in names:
                        assert isinstance(each, ast.Constant), f"{file}: an event is a constant"
                        if FORM.fullmatch(str(each.value)):  # the standard library's log has none
                            yield str(each.value), level


def test_the_table_is_complete():
    """What is logged is documented with its level, and nothing else is."""
    found = set(logged())
    assert found == {(name, event.level) for name, event in EVENTS.items()}


def test_what_needs_a_person_says_what_to_do():
    """Errors and warnings have an action, and each text is a sentence."""
    for name, event in EVENTS.items():
        assert event.meaning.endswith("."), name
        if event.level == "error":
            assert event.action, name
        assert not event.action or event.action.endswith("."), name
