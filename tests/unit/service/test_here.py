"""What cannot work here, found before anything opens, by each sink that could fail to start."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from support.certificates import certificate
from support.web import opened
from virtstatd.config.file import Loaded, load_text
from virtstatd.errors import PortInUse, StartError
from virtstatd.service.here import found_here, is_virtstatd
from virtstatd.service.web import EXPOSED
from virtstatd.sink import Opening
from virtstatd.sinks.null import Null


READ = "the agent's user must read it, or systemd hand it over (`LoadCredential=`)"

# the sink, what makes it unable to start here, and what is said of which option
WRONG: dict[str, tuple[dict[str, object], str]] = {
    "textfile folder": (
        {"type": "textfile", "path": "{here}/none/v.prom"},
        "path: cannot write {here}/none/v.prom; create the directory {here}/none",
    ),
    "jsonl folder": (
        {"type": "jsonl", "target": "{here}/none/v.jsonl"},
        (
            "target: cannot write {here}/none/v.jsonl: No such file or directory;"
            " create the directory {here}/none"
        ),
    ),
    "jsonl is a folder": (
        {"type": "jsonl", "target": "{here}"},
        "target: cannot write {here}: not a regular file; choose another target",
    ),
    "archive": (
        {"type": "parquet", "directory": "{here}/none/archive"},
        (
            "directory: cannot write {here}/none/archive: No such file or directory;"
            " create {here}/none"
        ),
    ),
    "archive is a file": (
        {"type": "parquet", "directory": "{here}/junk"},
        (
            "directory: cannot write {here}/junk: Not a directory;"
            " let the agent's user write there, or choose another directory"
        ),
    ),
    "spool": (
        {"type": "influx", "spool_bytes": 1 << 20},
        (
            "spool_bytes: cannot write {here}/junk/state/spool/it;"
            " let the agent's user write in {here}/junk, or choose another agent.state_directory"
        ),
    ),
    "password": (
        {"type": "remote_write", "username": "a", "password_file": "{here}/none"},
        f"password_file: cannot read {{here}}/none: No such file or directory; {READ}",
    ),
    "token of two lines": (
        {"type": "influx", "token_file": "{here}/junk"},
        "token_file: {here}/junk must hold one line of text",
    ),
    "empty password": (
        {"type": "postgres", "password_file": "{here}/empty"},
        "password_file: {here}/empty must hold one line of text",
    ),
    "kafka's password": (
        {"type": "kafka", "username": "a", "password_file": "{here}/none"},
        f"password_file: cannot read {{here}}/none: No such file or directory; {READ}",
    ),
    "authority": (
        {"type": "mqtt", "tls": True, "ca_file": "{here}/junk"},
        (
            "ca_file: cannot use {here}/junk: [X509: NO_CERTIFICATE_OR_CRL_FOUND]"
            " no certificate or crl found"
        ),
    ),
    "key of another certificate": (
        {
            "type": "otlp",
            "url": "https://localhost:1/v1",
            "certificate_file": "{here}/localhost1.crt",
            "key_file": "{here}/other1.key",
        },
        (
            "certificate_file: cannot use {here}/localhost1.crt: [X509: KEY_VALUES_MISMATCH]"
            " key values mismatch"
        ),
    ),
    "no certificate": (
        {"type": "graphite", "tls": True, "certificate_file": "{here}/none"},
        "certificate_file: cannot use {here}/none: No such file or directory",
    ),
    "NATS credentials": (
        {"type": "nats", "credentials_file": "{here}/junk"},
        "credentials_file: {here}/junk has no line with BEGIN NATS USER JWT",
    ),
    "credential": (
        {"type": "influx", "token_file": "credential:token"},
        "token_file: there is no credential:token; add LoadCredential= for it to the unit",
    ),
}


LATER = ("spool", "NATS credentials")
"""They open all the same, and fail again and again."""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Make a folder with files that are of no use as what they are named for."""
    certificate(tmp_path)
    certificate(tmp_path, "other")
    (tmp_path / "junk").write_text("two\nlines\n")
    (tmp_path / "empty").touch()
    return tmp_path


def written(here: Path, *sinks: dict[str, object], state: str = "state") -> Loaded:
    """Read a file with these sinks, the first of which is named `it` and begins in line 3."""
    lines = ["[agent]", f"state_directory = {json.dumps(str(here / state))}"]
    for number, sink in enumerate(sinks):
        lines += ["[[sink]]", f"name = {json.dumps(f'it{number or str()}')}"]
        for key, value in sink.items():
            text = value.format(here=here) if isinstance(value, str) else value
            lines.append(f"{key} = {json.dumps(text)}")
    return load_text("\n".join(lines), here / "v.toml")


def listing(here: Path) -> list[tuple[str, int]]:
    """Return every file below a folder, with the time of its last change."""
    return sorted((str(path), path.stat().st_mtime_ns) for path in here.rglob("*"))


def nobody(_: PortInUse) -> bool:
    """Know of no agent that listens."""
    return False


@pytest.mark.parametrize("case", WRONG)
async def test_what_cannot_start_is_a_fault_of_its_line(here: Path, case: str) -> None:
    """A well-formed sink that cannot open here is named with its file, line, option and remedy."""
    sink, text = WRONG[case]
    state = "junk/state" if case == "spool" else "state"
    read = written(here, sink, state=state)
    option = text.partition(":")[0]
    line = 5 + list(sink).index(option)
    before, descriptors = listing(here), set(os.listdir("/proc/self/fd"))

    (fault,) = read.located((await found_here(read.config, nobody)).faults)
    said = fault.partition(" (_ssl.c")[0]  # a line of OpenSSL's binding, which changes
    assert said == f"{here}/v.toml:{line}: sink[0].{text.format(here=here)}"

    assert listing(here) == before
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)
    if case not in LATER:
        with pytest.raises(StartError):  # the check told the truth
            async with read.config.sinks[0].sink.open(Opening("it", structlog.get_logger())):
                pass


GOOD: dict[str, dict[str, object]] = {
    "textfile": {"type": "textfile", "path": "{here}/v.prom"},
    "jsonl": {"type": "jsonl", "target": "{here}/v.jsonl"},
    "jsonl that is there": {"type": "jsonl", "target": "{here}/junk"},
    "jsonl socket": {"type": "jsonl", "target": "unix:{here}/none/socket"},
    "standard output": {"type": "jsonl"},
    "archive": {"type": "parquet", "directory": "{here}/archive"},
    "spool": {"type": "influx", "spool_bytes": 1 << 20},
    "password": {"type": "kafka", "username": "a", "password_file": "{here}/word"},
    "pair": {
        "type": "otlp",
        "url": "https://localhost:1/v1",
        "ca_file": "{here}/localhost1.crt",
        "certificate_file": "{here}/localhost1.crt",
        "key_file": "{here}/localhost1.key",
    },
    "NATS credentials": {"type": "nats", "credentials_file": "{here}/credentials"},
    "port": {"type": "prometheus", "listen_address": "127.0.0.1:0"},
    "away": {"type": "remote_write", "url": "http://nowhere.invalid/write"},
    "null": {"type": "null"},
}


@pytest.mark.parametrize("case", GOOD)
async def test_what_can_start_is_no_fault_and_leaves_nothing(here: Path, case: str) -> None:
    """What opens here passes, destinations that are away too; no file, no socket stays behind."""
    (here / "word").write_text("secret\n")
    (here / "credentials").write_text("-----BEGIN NATS USER JWT-----\n")
    before = listing(here)
    found = await found_here(written(here, GOOD[case]).config, nobody)
    assert (found.faults, found.notes) == ([], [])
    assert listing(here) == before


@pytest.fixture
def taken() -> Iterator[tuple[socket.socket, int]]:
    """Listen at a port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener, listener.getsockname()[1]


async def test_a_port_is_a_fault_unless_the_agent_itself_has_it(
    here: Path, taken: tuple[socket.socket, int]
) -> None:
    """Another's listener is named; the agent's own is none, and from outside it is a note."""
    _, port = taken
    address = f"127.0.0.1:{port}"
    read = written(here, {"type": "prometheus", "listen_address": address})

    found = await found_here(read.config, nobody)
    assert read.located(found.faults) == [
        (
            f"{here}/v.toml:6: sink[0].listen_address: cannot listen at {address}:"
            " the port is in use; stop what listens there or choose another port"
        )
    ]
    for outside, notes in (False, 0), (True, 1):
        found = await found_here(read.config, lambda each: each.port == port, outside=outside)
        assert (found.faults, len(found.notes)) == ([], notes)


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\nvirtstatd is running.\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n", False),
        (b"SSH-2.0-OpenSSH\r\n", False),
        (b"", False),
    ],
)
def test_an_agent_is_known_by_its_answer(
    taken: tuple[socket.socket, int], answer: bytes, *, known: bool
) -> None:
    """What listens at a port counts as an agent only if it says that it is one."""
    listener, port = taken

    def serve() -> None:
        for _ in range(1 if known else 2):  # in plain text, then by TLS
            with listener.accept()[0] as client:
                client.recv(4096)
                client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert is_virtstatd(PortInUse("", "0.0.0.0", port)) is known
    thread.join(60)
    listener.close()
    assert not is_virtstatd(PortInUse("", "127.0.0.1", port))


async def test_what_systemd_hands_over_is_a_note_from_outside(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials and the state directory cannot be judged by who is not the service."""
    monkeypatch.setenv("STATE_DIRECTORY", str(here / "junk"))
    token: dict[str, object] = {"type": "influx", "token_file": "credential:token"}
    missing: dict[str, object] = {"type": "influx", "token_file": "{here}/none"}
    spool: dict[str, object] = {"type": "influx", "spool_bytes": 1 << 20}
    header: dict[str, object] = {"type": "influx", "header_files.api-key": "credential:key"}
    read = written(here, token, missing, spool, header)
    config = replace_state(read.config, "")
    found = await found_here(config, nobody, outside=True)
    assert [fault.path for fault in found.faults] == [
        ("sink", 1, "token_file"),
        ("sink", 2, "spool_bytes"),  # systemd says where: it can be judged
    ]
    assert [note.path for note in found.notes] == [
        ("sink", 0, "token_file"),
        ("sink", 3, "header_files"),
    ]

    monkeypatch.delenv("STATE_DIRECTORY")
    found = await found_here(replace_state(config, "/dev/null/state"), nobody, outside=True)
    assert ("sink", 2, "spool_bytes") in [fault.path for fault in found.faults]


def replace_state(config: Any, directory: str) -> Any:
    """Return a configuration with another state directory."""
    agent = msgspec.structs.replace(config.agent, state_directory=directory)
    return msgspec.structs.replace(config, agent=agent)


async def test_a_check_that_hangs_or_breaks_is_a_fault(here: Path) -> None:
    """A sink's own code may do anything: it is reported, and the others are judged all the same."""
    release = threading.Event()

    class Hanging(Null):
        def check_here(self) -> None:
            release.wait()

    class Broken(Null):
        def check_here(self) -> None:
            raise KeyError("its own")

    null: dict[str, object] = {"type": "null"}
    missing: dict[str, object] = {"type": "textfile", "path": "{here}/none/v.prom"}
    config: Any = written(here, null, null, missing).config
    sinks = [
        msgspec.structs.replace(each, sink=sink)
        for each, sink in zip(
            config.sinks, (Hanging(), Broken(), config.sinks[2].sink), strict=True
        )
    ]
    config = msgspec.structs.replace(config, sinks=tuple(sinks))
    try:
        found = await found_here(config, nobody, seconds=0.5)
    finally:
        release.set()
    assert [str(fault).partition(";")[0] for fault in found.faults] == [
        "sink[0]: could not be checked within 0.5 s",
        "sink[1]: cannot be checked: KeyError: 'its own'",
        f"sink[2].path: cannot write {here}/none/v.prom",
    ]


WEB_WRONG = {
    "no certificate": (
        "certificate_file = '{here}/none'\nkey_file = '{here}/none'",
        "2: web.certificate_file: cannot use {here}/none: ",
    ),
    "key of another certificate": (
        "certificate_file = '{here}/localhost1.crt'\nkey_file = '{here}/other1.key'",
        "2: web.certificate_file: cannot use {here}/localhost1.crt: ",
    ),
    "no authority": (
        (
            "certificate_file = '{here}/localhost1.crt'\nkey_file = '{here}/localhost1.key'\n"
            "client_ca_file = '{here}/junk'"
        ),
        "4: web.client_ca_file: cannot use {here}/junk: ",
    ),
    "token": (
        "token_files = {{ a = '{here}/empty' }}",
        "2: web.token_files: a: {here}/empty must hold one line of text",
    ),
    "web.yml": (
        "web_config_file = '{here}/junk'",
        "2: web.web_config_file: cannot use {here}/junk: ",
    ),
    "address": (
        "listen_address = '192.0.2.1:1'",
        "2: web.listen_address: cannot listen at 192.0.2.1:1: ",
    ),
}


@pytest.mark.parametrize("case", WEB_WRONG)
async def test_what_the_listener_cannot_use_is_a_fault_of_its_line(here: Path, case: str) -> None:
    """A file or an address of the table that cannot be used here is named with its line."""
    text, wanted = (each.format(here=here) for each in WEB_WRONG[case])
    read = load_text(f"[web]\n{text}\n[[sink]]\ntype = 'null'\n", here / "v.toml")
    (fault,) = read.located((await found_here(read.config, nobody)).faults)
    assert fault.startswith(f"{here}/v.toml:{wanted}")


@pytest.mark.parametrize(
    ("text", "noted"),
    [
        ("listen_address = ':0'", True),
        ("listen_address = ':0'\nopen = true", False),
        ("listen_address = ':0'\ntoken_files = {{ a = '{here}/word' }}", False),
        ("listen_address = '127.0.0.1:0'", False),
        ("listen_address = '[::1]:0'", False),
    ],
)
async def test_an_address_that_others_reach_is_a_note(
    here: Path, text: str, *, noted: bool
) -> None:
    """A check points out where strangers see numbers without a login that nobody allowed."""
    (here / "word").write_text("secret")
    read = load_text(f"[web]\n{text.format(here=here)}\n", here / "v.toml")
    found = await found_here(read.config, nobody, outside=True)
    assert found.faults == []
    notes = [f"{here}/v.toml:2: web.listen_address: {EXPOSED}"] if noted else []
    assert read.located(found.notes) == notes


@pytest.mark.parametrize("wants", [False, True])
async def test_an_agent_with_tls_is_known(here: Path, *, wants: bool) -> None:
    """An encrypted agent is known, also where it wants a certificate that the check has not."""
    text = (
        "[web]\nlisten_address = '127.0.0.1:0'\n"
        f"certificate_file = '{here}/localhost1.crt'\nkey_file = '{here}/localhost1.key'\n"
    )
    text += f"client_ca_file = '{here}/other1.crt'\n" if wants else ""
    web = load_text(text, here / "v.toml").config.web
    async with opened(text) as it:
        taken = PortInUse("", "127.0.0.1", it.port)
        assert await asyncio.to_thread(is_virtstatd, taken, web)
        assert await asyncio.to_thread(is_virtstatd, taken) is not wants
