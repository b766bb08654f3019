"""The configuration file: what is accepted, and that every fault is reported with its place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from msgspec import Meta

from virtstatd.collect.bulk.options import MonitorOptions
from virtstatd.config.file import Config, load_config, parse_config, read_config
from virtstatd.config.kinds import KINDS
from virtstatd.config.plugins import Plugins
from virtstatd.config.tables import TABLES
from virtstatd.errors import ConfigError, StartError
from virtstatd.sink import Delivery, Sink
from virtstatd.sinks.null import Null
from virtstatd.sinks.prometheus import Prometheus


FILES = Path(__file__).parents[2] / "config"
EXAMPLES = Path(__file__).parents[3] / "config" / "examples"


class Known(Plugins):
    """Plug-ins that the test knows, and no others."""

    def __init__(self, find: Callable[[str], type[Any]], names: Iterable[str]) -> None:
        super().__init__("", "sink", lambda _: "")
        self._find = find
        self._names = list(names)

    def names(self) -> list[str]:
        """Return those of the test."""
        return self._names

    def find(self, type_name: str) -> type[Any]:
        """Return one of the test's."""
        return self._find(type_name)


def faults_of(text: str, sinks: dict[str, type[Sink]] | None = None) -> list[str]:
    """Return the faults of a text, and fail when it has none."""
    known = sinks or {"prometheus": Prometheus, "null": Null}
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f", sinks=Known(known.__getitem__, known))
    return caught.value.faults


@pytest.mark.parametrize("path", sorted((FILES / "bad").glob("*.toml")), ids=lambda path: path.stem)
def test_a_bad_file_reports_exactly_what_its_head_says(path: Path) -> None:
    """Each file's faults, all of them and no other, are those that its first comments announce."""
    tables = ", ".join(dict.fromkeys(name.partition(".")[0] for name in TABLES)).encode()
    lines = path.read_bytes().replace(b"{tables}", tables).splitlines()
    head = [line for line in lines if line.startswith(b"## ")]
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.faults == [f"{path}{line.removeprefix(b'## ').decode()}" for line in head]


def test_ten_faults_are_ten_lines() -> None:
    """A file with ten different faults reports ten lines, in the order of the file."""
    with pytest.raises(ConfigError) as caught:
        load_config(FILES / "bad" / "ten_faults.toml")
    lines = [int(fault.split(".toml:")[1].split(":")[0]) for fault in caught.value.faults]
    assert len(lines) == 10
    assert lines == sorted(lines)
    assert str(caught.value).count("\n") == 9


@pytest.mark.parametrize(
    "path",
    sorted([*(FILES / "good").glob("*.toml"), *EXAMPLES.glob("*.toml")]),
    ids=lambda path: path.stem,
)
def test_a_good_file_loads(path: Path) -> None:
    """Each good file and each shipped example loads without a fault."""
    assert load_config(path).sinks


def test_the_defaults_need_no_file() -> None:
    """Without a file, and with an empty one, prometheus alone runs and every option is default."""
    config = load_config(None)
    assert config == load_config(FILES / "good" / "empty.toml")
    assert [(each.name, each.type, each.sink) for each in config.sinks] == [
        ("prometheus", "prometheus", Prometheus())
    ]
    assert config == Config(
        sinks=config.sinks,
        places=config.places,
        collect={each.table: TABLES[each.table]() for each in KINDS if each.table},
    )
    assert [place.address for place in config.places] == ["127.0.0.1:9766"]
    poll = config.collect["poll"]
    tiers = (poll.pulse, poll.monitor, poll.extra)
    assert [tier.bits for tier in tiers] == [1 | 16 | 64 | 256, 2 | 4 | 8 | 32, 128 | 512 | 1024]


def test_what_is_written_is_what_is_read() -> None:
    """Values of every table arrive, the others stay default, and sinks keep their order."""
    config = load_config(FILES / "good" / "dotted.toml")
    poll = config.collect["poll"]
    assert poll.pulse.interval_seconds == 2.5
    assert poll.monitor == MonitorOptions()
    assert (config.hypervisor.lanes, config.hypervisor.uri) == (3, "test:///default")
    sinks = load_config(FILES / "good" / "sinks.toml").sinks
    assert [(each.name, each.type) for each in sinks] == [
        ("null", "null"),
        ("second", "null"),
        ("prometheus", "prometheus"),
    ]
    assert [each.outlet.attempt_seconds for each in sinks] == [10.0, 1.0, 10.0]
    assert sinks[2].sink == Prometheus(listen_address="[::1]:0")
    assert load_config(FILES / "good" / "tier_off.toml").collect["poll"].extra.bits == 0


def test_an_unreadable_file_is_one_sentence_with_the_mend(tmp_path: Path) -> None:
    """No file, a directory, an endless file and a name too long are each one clear line."""
    cases = {
        tmp_path / "absent.toml": "there is no such file; create it",
        tmp_path: "is a directory; name the file in it",
        Path("/dev/zero"): "is larger than 1048576 bytes; name the right file",
        tmp_path / ("x" * 300): "cannot be read: File name too long",
    }
    for path, text in cases.items():
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert len(caught.value.faults) == 1
        assert caught.value.faults[0].startswith(f"{path}: {text}")


def test_a_file_without_permission_says_who_must_read_it(tmp_path: Path) -> None:
    """A file that the agent's user may not read is one sentence with the fix."""
    path = tmp_path / "virtstatd.toml"
    path.touch(mode=0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read everything
    try:
        with pytest.raises(ConfigError, match="permission denied; let the user that runs"):
            load_config(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("text", [f"x = {'[' * 5000}", f"x = {'[' * 5000}{']' * 5000}"])
def test_nesting_without_end_is_a_fault_and_not_a_crash(text: str) -> None:
    """Arrays nested thousands deep are reported like any other fault."""
    assert len(faults_of(text)) == 1


def test_a_sink_that_cannot_be_used_is_a_fault_of_its_type() -> None:
    """Whatever a sink's import or class raises is one line at its type, beside other faults."""

    def find(kind: str) -> type[Sink]:
        match kind:
            case "unpacked":
                raise StartError("the sink unpacked needs cramjam; install virtstatd[unpacked]")
            case "broken":
                raise ZeroDivisionError("at import")
            case _:
                return Plain

    text = '[[sink]]\ntype = "unpacked"\n[[sink]]\ntype = "broken"\n[[sink]]\ntype = "plain"\n'
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{text}[log]\nx = 1", "f", sinks=Known(find, ("unpacked", "broken", "plain")))
    neither = "TypeError: Plain is neither a dataclass nor a msgspec.Struct"
    assert caught.value.faults == [
        "f:2: sink[0].type: the sink unpacked needs cramjam; install virtstatd[unpacked]",
        "f:4: sink[1].type: the sink broken cannot be used: ZeroDivisionError: at import",
        f"f:6: sink[2].type: the sink plain cannot be used: {neither}",
        "f:8: log.x: unknown option, known: level, format",
    ]


class Plain:
    """A sink that forgot to be a dataclass."""

    delivery: ClassVar[Delivery] = "memory"
    open = Null.open


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picky(Null):
    """A sink with a required option and a judgement of its own."""

    delivery: ClassVar[Delivery] = "memory"
    low: Annotated[int, Meta(description="The least.")]
    high: Annotated[int, Meta(description="The most.")] = 10

    def __post_init__(self) -> None:
        """Refuse what no single option can know."""
        if self.low > self.high:
            raise ValueError("low: must not be above high")
        if self.high == 13:
            raise ValueError("thirteen is not accepted")


def test_a_sink_judges_its_options_together() -> None:
    """A sink's own ValueError is a fault at the option that it names, or at the sink's table."""
    sinks: dict[str, type[Sink]] = {"picky": Picky}
    assert faults_of('[[sink]]\ntype = "picky"\nhigh = 1\nlow = 2\n', sinks) == [
        "f:4: sink[0].low: must not be above high"
    ]
    assert faults_of('[[sink]]\ntype = "picky"\nhigh = 13\nlow = 2\n', sinks) == [
        "f:1: sink[0]: thirteen is not accepted"
    ]
    assert faults_of('[[sink]]\ntype = "picky"\n', sinks) == [
        "f:1: sink[0].low: is missing and has no default"
    ]


def test_a_uri_with_a_password_is_not_repeated() -> None:
    """A fault of a URI does not print what may stand in it."""
    (fault,) = faults_of('[hypervisor]\nuri = "qemu+ssh://root:hunter2@host:x/system"\n')
    assert "hunter2" not in fault


@pytest.mark.parametrize(
    ("interval", "cgroups", "looks"), [(1.0, 5.0, 5), (0.5, 5.0, 10), (60.0, 5.0, 1), (3.0, 5.0, 2)]
)
def test_cgroups_are_read_at_every_so_many_looks(interval: float, cgroups: float, looks: int):
    """At least one in as many looks as fit, also where looks are rarer than that."""
    text = f"[local]\ninterval_seconds = {interval}\ncgroup_interval_seconds = {cgroups}\n"
    assert parse_config(text, "virtstatd.toml").collect["local"].cgroup_looks == looks


def test_a_default_file_counts_from_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without a file the defaults run; reading again finds one that came, misses one that went."""
    default = tmp_path / "virtstatd.toml"
    monkeypatch.setattr("virtstatd.config.file.DEFAULT_FILE", default)
    first = read_config(None)
    assert (first.path, first.text, first.name) == (None, "", "defaults")
    assert first.config == load_config(None)

    default.write_text("[hypervisor]\nlanes = 3\n")
    second = first.again()
    assert (second.path, second.config.hypervisor.lanes) == (default, 3)
    assert second == read_config(None)

    default.unlink()  # whoever runs with it must not fall back on the defaults
    with pytest.raises(ConfigError, match="there is no such file"):
        second.again()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user whose files nothing here is."""
    user = os.geteuid()
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.needs("root")
def test_a_default_file_that_cannot_be_looked_for_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A folder that may not be searched is named, in place of defaults that nobody chose."""
    folder = tmp_path / "virtstatd"
    folder.mkdir(mode=0o700)
    default = folder / "virtstatd.toml"
    default.write_text("")
    monkeypatch.setattr("virtstatd.config.file.DEFAULT_FILE", default)
    with unprivileged(), pytest.raises(ConfigError) as raised:
        read_config(None)
    assert raised.value.faults == [
        f"{default}: permission denied; let the user that runs virtstatd read it"
    ]
