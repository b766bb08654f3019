"""Sinks are found by name, and one that cannot be had says what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from virtstatd.config import plugins as sinks
from virtstatd.errors import ConfigError
from virtstatd.runtime.installing import PIP
from virtstatd.sinks.jsonl import Jsonl
from virtstatd.sinks.null import Null
from virtstatd.sinks.prometheus import Prometheus


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a distribution whose sinks are all broken in their own way, and one that works."""
    (tmp_path / "others.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "class Good:\n    delivery = 'memory'\n    def open(self, opening): ...\n"
        "class Lazy:\n    delivery = 'memory'\n"
        "class Odd:\n    delivery = 'exactly-once'\n    def open(self, opening): ...\n"
        "def function(): ...\n"
    )
    (tmp_path / "needy.py").write_text("import nowhere.at_all\n")
    (tmp_path / "crash.py").write_text("1 / 0\n")
    metadata = tmp_path / "others-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: others\nVersion: 1\nProvides-Extra: needy\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[virtstatd.sinks]\ngood = others:Good\nlazy = others:Lazy\nodd = others:Odd\n"
        "function = others:function\nneedy = needy:Sink\nbare = needy:Sink\ncrash = crash:Sink\n"
        "absent = others:Absent\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def fault(name: str) -> str:
    """Return the one sentence about a sink that cannot be had."""
    with pytest.raises(ConfigError) as caught:
        sinks.SINKS.find(name)
    (sentence,) = caught.value.faults
    assert "\n" not in sentence
    return sentence


def test_the_sinks_of_the_package():
    """The agent's own sinks are found like anybody's."""
    assert {"jsonl", "null", "prometheus"} <= set(sinks.SINKS.names())
    found = [sinks.SINKS.find(name) for name in ("jsonl", "null", "prometheus")]
    assert found == [Jsonl, Null, Prometheus]


@pytest.mark.usefixtures("others")
def test_a_sink_of_others():
    """A sink of another distribution is found by its entry point alone."""
    assert "good" in sinks.SINKS.names()
    assert sinks.SINKS.find("good").__name__ == "Good"


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("promethus", "unknown sink type 'promethus', did you mean prometheus?"),
        (
            "needy",
            (
                "the sink needy needs the Python module nowhere, which is not installed;"
                f" {PIP} install 'others[needy]'"
            ),
        ),
        (
            "bare",
            (
                "the sink bare needs the Python module nowhere, which is not installed;"
                f" {PIP} install nowhere"
            ),
        ),
        ("crash", "the sink crash cannot be imported: ZeroDivisionError: division by zero"),
        ("lazy", "others:Lazy is no sink: it has no open"),
        ("odd", "others:Odd is no sink: it is not a class with a delivery"),
        ("function", "others:function is no sink: it is not a class with a delivery"),
    ],
)
def test_a_sink_that_cannot_be_had(name: str, sentence: str):
    """Each way to have no sink is one sentence that names the fix."""
    assert fault(name) == sentence


@pytest.mark.usefixtures("others")
def test_a_class_that_is_not_there():
    """An entry point that leads nowhere says so."""
    assert fault("absent").startswith("the sink absent cannot be imported: AttributeError: ")


def test_an_unknown_name_without_a_near_one():
    """A name that resembles none gets the list of those there are."""
    assert fault("zzz").startswith("unknown sink type 'zzz', known: ")


def test_only_the_named_sink_is_imported():
    """Finding one sink imports no other, and listing them imports none."""
    script = (
        "import sys; from virtstatd.config import plugins as p; p.SINKS.names()\n"
        "p.SINKS.find('null')\n"
        "assert 'virtstatd.sinks.null' in sys.modules\n"
        "assert not {'virtstatd.sinks.jsonl', 'virtstatd.sinks.prometheus'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("extra", ["two-words", "two_words"])
def test_an_extra_is_named_as_pip_wants_it(others: Path, extra: str):
    """A sink whose name has an underscore has an extra with a dash, whoever packed it."""
    metadata = others / "others-1.dist-info"
    with (metadata / "METADATA").open("a") as file:
        file.write(f"Provides-Extra: {extra}\n")
    with (metadata / "entry_points.txt").open("a") as file:
        file.write("two_words = needy:Sink\n")
    assert fault("two_words").endswith("pip install 'others[two-words]'")
