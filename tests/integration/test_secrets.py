"""Every secret that an option can name: used, sent, rotated, refused, and nowhere to be found."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import bcrypt
import duckdb
import nkeys  # type: ignore[import-untyped]

from support.agent import Agent, running
from support.certificates import certificate
from support.echoing import Echoes, echoing
from support.simulator import simulated
from virtstatd.config.options import options
from virtstatd.sending.paths import CREDENTIAL
from virtstatd.serving.options import WebOptions
from virtstatd.serving.passwords import made


PUBLIC = {"ca_file", "certificate_file", "client_ca_file"}
"""Files that an option names as it names secrets, and that everybody may see."""

KINDS = {
    "graphite": "bytes",
    "http": "http",
    "influx": "http",
    "kafka": "bytes",
    "mqtt": "mqtt",
    "nats": "nats",
    "otlp": "http",
    "postgres": "postgres",
    "remote_write": "http",
}
"""The receiver of `support/echoing.py` that speaks as the sink does."""

NEVER_SENT = ("key_file", "web", "wrong", "kafka", "graphite", "seed")
"""Parts of the purposes of secrets that no receiver here is shown."""

CONTENTS = {
    "key_file": "{secret}\n{key}",
    "credentials_file": (
        "-----BEGIN NATS USER JWT-----\n{secret}\n------END NATS USER JWT------\n\n"
        "-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    ),
}
"""What files hold that are no line of text; OpenSSL ignores what stands before a key."""

LOG = "[log]\nlevel = 'debug'\n"

PATHS = (
    "/",
    "/metrics",
    "/-/healthy",
    "/api/v1/host",
    "/api/v1/guests",
    "/api/v1/agent",
    "/api/v1/findings",
    "/api/v1/events",
    "/api/v1/schema",
    "/api/v1/nothing",
)


@dataclass
class Marks:
    """Secrets that can be recognized, and every file that holds one."""

    folder: Path
    first: int = 0
    """How many secrets there were before the change."""

    texts: dict[str, str] = field(default_factory=dict)
    """The core of each secret, by what it is for; printable, and the same in all encodings."""

    def new(self, purpose: str) -> str:
        """Return a new secret: its core, with characters around it that encodings change."""
        core = f"Mk{len(self.texts):03}Secret{os.urandom(4).hex()}"
        self.texts[f"{purpose} {len(self.texts)}"] = core
        return f'{core}"%&/+=<{core}'

    def hidden_file(
        self, purpose: str, text: str = "{secret}", pair: tuple[Path, ...] = ()
    ) -> Path:
        """Write a file with a new secret, in place of the one before."""
        path = self.folder / f"{purpose.replace(' ', '-')}.secret"
        text = text.replace("{secret}", self.new(purpose))
        if "{key}" in text:
            text = text.replace("{key}", key := pair[1].read_text())
            self.texts[f"{purpose} {len(self.texts)}"] = key.splitlines()[1]
        if "{seed}" in text:
            seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode()
            text = text.replace("{seed}", seed)
            self.texts[f"{purpose} seed {len(self.texts)}"] = seed
        path.write_text(text)
        return path

    def check_heard(self, heard: str) -> None:
        """Fail where receivers were not shown a secret: it would be searched for in vain."""
        seen = self.found(heard)
        sent = [each for each in self.texts if not any(part in each for part in NEVER_SENT)]
        assert [each for each in sent if each not in seen] == []

    def found(self, text: str) -> list[str]:
        """Return the purposes of the secrets that a text shows, as they are or in base64."""
        return [
            purpose
            for purpose, core in self.texts.items()
            if any(form in text for form in self._forms(core))
        ]

    @staticmethod
    def _forms(core: str) -> Iterator[str]:
        yield core
        for before in range(3):  # what stands before it moves the bits
            yield b64encode(bytes(before) + core.encode()).decode()[4:-4]


def secret_options(cls: type) -> list[str]:
    """Return the options of a class that name files of secrets, by what they say of themselves."""
    return [
        option.name
        for option in options(cls)
        if CREDENTIAL in option.description and option.name not in PUBLIC
    ]


def test_the_options_of_secrets_are_found():
    """The search below knows each kind of option, and is told the receiver of each new sink."""
    named = {entry.name: secret_options(entry.load()) for entry in _sinks()}
    assert {name for name, found in named.items() if found} == KINDS.keys()
    assert set(named["http"]) >= {"token_file", "password_file", "header_files", "key_file"}
    assert set(secret_options(WebOptions)) == {"key_file", "token_files"}
    for entry in _sinks():
        files = {each.name for each in options(entry.load()) if each.name.endswith("_file")}
        unsure = {each for each in files if re.search("pass|token|key|secret|cred", each)}
        assert unsure <= set(named[entry.name])


def test_no_secret_is_shown_anywhere(tmp_path: Path):
    """Log, commands, pages, API, processes, spools and archives hold none, whatever is answered."""
    pair = certificate(tmp_path)
    marks = Marks(tmp_path)
    state = tmp_path / "state"
    state.mkdir()
    with simulated(tmp_path, "--domains=3") as sim, echoing(pair) as (echoes, ports):
        echoes.issued = marks.new("issued token")
        sinks = _sink_tables(marks, pair, ports, state)
        web, login = _web_of_options(marks, pair)
        with running(
            tmp_path,
            sim.uri,
            more=f"{web}{LOG}{''.join(sinks)}",
            lines=state / "lines",
            STATE_DIRECTORY=str(state),
            PYTHONFAULTHANDLER="1",
        ) as agent:
            shown = _used(agent, echoes, marks, pair, login)
            marks.first = len(marks.texts)
            echoes.issued = marks.new("issued token")
            sinks = _sink_tables(marks, pair, ports, state)  # all files hold other secrets now
            file = tmp_path / "virtstatd.toml"
            changed, login = _web_of_a_file(marks, pair)
            file.write_text(file.read_text().replace(web, changed))
            agent.process.send_signal(signal.SIGHUP)
            agent.wait_for(lambda: len(agent.events("agent.started")) == 2)
            shown += _used(agent, echoes, marks, pair, login)
            shown += _commands(file, state)
            for name in ("cmdline", "environ"):
                shown += Path(f"/proc/{agent.pid}/{name}").read_text()
            marks.check_heard(bytes(echoes.heard).decode("latin-1"))
            agent.process.send_signal(signal.SIGABRT)
            assert agent.process.wait(100) == -signal.SIGABRT
        shown += json.dumps(agent.log)
    assert "Fatal Python error: Aborted" in shown
    assert "(secret)" in shown  # answers are quoted in the log, but for this
    assert marks.found(shown) == []
    assert marks.found(_kept(state)) == []


def _sink_tables(
    marks: Marks, pair: tuple[Path, Path], ports: dict[str, int], state: Path
) -> list[str]:
    """Return a sink for each option that names secrets, and those that write files."""
    tables = [f"[[sink]]\ntype = 'parquet'\ndirectory = '{state}/archive'\nflush_seconds = 1\n"]
    for entry in _sinks():
        for option in secret_options(entry.load()):
            name = f"{entry.name}-{option}"
            given = _beside(entry.name, option, pair, ports, name)
            given[option] = str(marks.hidden_file(name, CONTENTS.get(option, "{secret}"), pair))
            if option == "header_files":
                given[option] = {"X-Api-Key": given[option]}
            if option == "token_file":
                given["spool_bytes"] = 1 << 20
            if entry.name == "http":
                given["dead_letter_file"] = f"{state}/{name}.refused"
            rows = "".join(f"{key} = {_toml(value)}\n" for key, value in given.items())
            tables.append(f"[[sink]]\ntype = '{entry.name}'\nname = '{name}'\n{rows}")
    return tables


def _beside(
    sink: str, option: str, pair: tuple[Path, Path], ports: dict[str, int], name: str
) -> dict[str, object]:
    """Return what else a sink's table needs for an option that names a secret."""
    kind = KINDS[sink]
    tls = option == "key_file"
    given: dict[str, object] = {}
    if kind == "http":
        kind = "https" if tls else "http"
        given["url"] = f"{kind}://localhost:{ports[kind]}/{name}?api_key=none"
        if sink == "influx":
            given["url"] = f"{kind}://localhost:{ports[kind]}/{name}"
    elif kind == "nats":
        given["servers"] = [f"nats://127.0.0.1:{ports['nats']}"]
    elif kind == "postgres":
        given["url"] = f"postgresql://user@127.0.0.1:{ports['postgres']}/name"
    elif sink == "kafka":
        given["brokers"] = [f"127.0.0.1:{ports[kind]}"]
    else:
        given["address"] = f"127.0.0.1:{ports[kind]}"
    if tls:
        given |= {"certificate_file": str(pair[0]), "ca_file": str(pair[0])}
        given |= {} if kind == "https" else {"tls": True}
    if option == "password_file" and sink != "postgres":
        given["username"] = "someone"
    if option == "oauth2_secret_file":
        given["oauth2_client"] = "someone"
        given["oauth2_url"] = f"http://localhost:{ports['http']}/issuer/{name}"
    if option == "proxy_password_file":
        given["proxy_username"] = "someone"
        given["proxy_url"] = f"http://localhost:{ports['http']}"
    return given


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def _web_of_options(marks: Marks, pair: tuple[Path, Path]) -> tuple[str, str]:
    """Return the listener's table, with all secrets that it can have, and a login."""
    key = marks.hidden_file("web key_file", CONTENTS["key_file"], pair)
    token = marks.hidden_file("web token_files")
    hashed = made(marks.new("web password"))
    marks.texts["web users"] = hashed.rpartition("$")[2]
    text = (
        f"[web]\ncertificate_file = '{pair[0]}'\nkey_file = '{key}'\n"
        f"token_files = {{reader = '{token}'}}\nusers = {{someone = '{hashed}'}}\n"
    )
    return text, f"Bearer {token.read_text()}"


def _web_of_a_file(marks: Marks, pair: tuple[Path, Path]) -> tuple[str, str]:
    """Return the same for a `web.yml`."""
    key = marks.hidden_file("web.yml key_file", CONTENTS["key_file"], pair)
    password = marks.new("web.yml password")
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    marks.texts["web.yml basic_auth_users"] = hashed[10:]
    file = marks.folder / "web.yml"
    file.write_text(
        f"tls_server_config:\n  cert_file: {pair[0]}\n  key_file: {key}\n"
        f"basic_auth_users:\n  someone: {hashed}\n"
    )
    login = b64encode(f"someone:{password}".encode()).decode()
    return f"[web]\nweb_config_file = '{file}'\n", f"Basic {login}"


def _used(agent: Agent, echoes: Echoes, marks: Marks, pair: tuple[Path, Path], login: str) -> str:
    """Wait until all receivers have answered twice; return what the pages say, to strangers too."""
    before = echoes.answered.copy()
    over_http = {path for name, kind in KINDS.items() if kind == "http" for path in _paths(name)}
    agent.wait_for(
        lambda: all(
            sum(now - before[path] for path, now in list(echoes.answered.items()) if name in path)
            >= 2
            for name in over_http
        )
    )
    port = agent.events("web.listening")[-1]["port"]
    trust = ssl.create_default_context(cafile=pair[0])
    wrong = marks.new("wrong login")
    wrongs = [f"Bearer {wrong}", "Basic " + b64encode(f"someone:{wrong}".encode()).decode(), wrong]
    shown = ""
    for path in PATHS:
        for authorization in (login, *wrongs[: 3 if path == "/metrics" else 0]):
            request = urllib.request.Request(
                f"https://localhost:{port}{path}?token={wrong.partition(chr(34))[0]}",
                headers={"Authorization": authorization},
            )
            try:
                with urllib.request.urlopen(request, timeout=100, context=trust) as answer:
                    assert authorization == login
                    shown += f"{answer.headers}{answer.read().decode()}"
            except urllib.error.HTTPError as error:
                assert authorization != login or path == PATHS[-1]
                shown += f"{error.headers}{error.read().decode()}"
    return shown


def _paths(sink: str) -> Iterator[str]:
    (entry,) = (each for each in _sinks() if each.name == sink)
    for option in secret_options(entry.load()):
        yield f"{sink}-{option}"


def _commands(file: Path, state: Path) -> str:
    """Return what the commands say that read the same file."""
    said = ""
    for command in ("check", "once", "status", "doctor", "spool list"):
        done = subprocess.run(
            [sys.executable, "-m", "virtstatd", *command.split(), "--config", str(file)],
            env=os.environ | {"STATE_DIRECTORY": str(state)},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        said += done.stdout + done.stderr
    return said


def _kept(state: Path) -> str:
    """Return all that was written to disk: names, bytes and tables."""
    kept = ""
    files = [path for path in state.rglob("*") if path.is_file()]
    for path in files:
        kept += f"{path}\n{path.read_bytes().decode('latin-1')}"
        if path.suffix == ".parquet":
            kept += str(duckdb.read_parquet(str(path)).fetchall())
    assert any(path.suffix == ".refused" for path in files)
    return kept


def _sinks() -> list[EntryPoint]:
    return sorted(entry_points(group="virtstatd.sinks"), key=lambda entry: entry.name)
