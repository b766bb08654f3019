"""Where the agent listens, and what is shown there."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.web import get, opened
from virtstatd.config.file import parse_config
from virtstatd.errors import ConfigError, StartError
from virtstatd.testing import make_batch


PAGE = "[[sink]]\ntype = 'prometheus'\n"
PUSH = "[[sink]]\ntype = 'null'\n"
HERE = "listen_address = '127.0.0.1:0'\n"


def addresses(text: str) -> list[str]:
    """Return where a configuration listens."""
    return [place.address for place in parse_config(text, "v.toml").places]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ["127.0.0.1:9766"]),
        (PAGE, ["127.0.0.1:9766"]),
        (PUSH, []),
        (f"[web]\n{PUSH}", []),
        (f"[web]\nopen = true\n{PUSH}", ["127.0.0.1:9766"]),
        (f"[web]\nlisten_address = ':1'\n{PUSH}", [":1"]),
        (f"[web]\nlisten_address = ':1'\n{PAGE}", [":1"]),
        (f"[web]\nopen = true\n{PAGE}listen_address = ':2'", [":2"]),
        (f"{PAGE}listen_address = ':2'", [":2"]),
        (f"[web]\nlisten_address = ':1'\n{PAGE}listen_address = ':2'", [":1", ":2"]),
        (f"{PAGE}listen_address = ':2'\n{PAGE}name = 'b'\npath = '/b'", [":2"]),
        (f"{PAGE}listen_address = ':2'\n{PAGE}name = 'b'\nlisten_address = ':3'", [":2", ":3"]),
    ],
)
def test_where_to_listen(text: str, wanted: list[str]):
    """The table's address is that of a sink where it names none, and others are listened at too."""
    assert addresses(text) == wanted


def test_two_pages_at_one_place_are_a_fault():
    """Two sinks cannot show at the same path of one address, however each names it."""
    text = f"{PAGE}listen_address = ':2'\n{PAGE}name = 'b'\n"
    with pytest.raises(ConfigError, match=r"sink\[1\]\.path: is that of sink\[0\] too"):
        parse_config(text, "v.toml")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("listen_address = 'x'", "web.listen_address: must be host:port"),
        ("certificate_file = '/x'", "web.key_file: certificate_file and key_file go together"),
        ("client_ca_file = '/x'", "web.client_ca_file: needs certificate_file and key_file"),
        ("users = { a = 'secret' }", "web.users.a: must be a hash of bcrypt or scrypt"),
        ("users = { a = 'secret' }\nweb_config_file = '/x'", "web.users: is for the file"),
        ("access = { '/' = ['joe'] }", "web.access.'/': joe is neither a user"),
        ("access = { 'x' = ['*'] }", "web.access.x: must begin with /"),
        ("client_certificates = 'x'", "web.client_certificates: unknown value"),
        ("conections = 3", "web.conections: unknown option, did you mean connections"),
    ],
)
def test_faults_of_the_table_name_their_option(text: str, fault: str):
    """What is wrong with the table is found when the file is read, and names its line."""
    with pytest.raises(ConfigError) as caught:
        parse_config(f"[web]\n{text}\n", "v.toml")
    assert any(fault in each for each in caught.value.faults), caught.value.faults


async def test_a_host_that_only_pushes_shows_its_health():
    """Where no sink shows anything, health, readiness and the page for people are shown."""
    async with opened(f"[web]\n{HERE}{PUSH}") as it:
        assert (await get(it.port, "/-/healthy"))[0] == 200
        assert (await get(it.port, "/-/ready"))[0] == 503
        await it.send(make_batch())
        assert (await get(it.port, "/-/ready"))[0] == 200
        assert (await get(it.port, "/"))[1]["content-type"] == "text/html; charset=utf-8"
        status, _, body = await get(it.port, "/metrics")
        assert (status, body) == (404, b"Not here; see /-/healthy, /-/ready\n")


async def test_each_page_is_at_its_own_place():
    """Sinks with an address of their own are shown there alone, with the table's other options."""
    other = "name = 'b'\nlisten_address = '127.0.0.2:0'\npath = '/b'\n"
    text = f"[web]\n{HERE}{PAGE}path = '/a'\n{PAGE}{other}"
    async with opened(text) as it:
        first, second = it.ports
        assert (await get(first, "/a"))[0] == 200
        assert (await get(first, "/b"))[0] == 404
        assert (await get(second, "/b", host="127.0.0.2"))[0] == 200
        assert (await get(second, "/a", host="127.0.0.2"))[0] == 404
        assert (await get(first, "/"))[0] == 200
        assert (await get(second, "/", host="127.0.0.2"))[0] == 404


@pytest.mark.parametrize(
    ("address", "more", "status", "warns"),
    [
        ("127.0.0.1:0", "", 200, False),
        ("0.0.0.0:0", "", 403, True),
        (":0", "", 403, True),
        (":0", "open = true", 200, False),
        (":0", "token_files = { a = '{token}' }\n", 401, False),
    ],
)
async def test_strangers_see_metrics_alone(
    tmp_path: Path, address: str, more: str, status: int, *, warns: bool
):
    """Where others reach it metrics are shown, and all else after a login or where allowed."""
    token = tmp_path / "token"
    token.write_text("secret")
    more = more.replace("{token}", str(token))
    async with opened(f"[web]\nlisten_address = '{address}'\n{more}\n{PAGE}") as it:
        found, _, body = await get(it.port, "/")
        assert found == status
        assert bool(it.events("web.exposed")) is warns
        if status == 403:
            assert b"open = true" in body
            assert (await get(it.port, "/metrics"))[0] == 200
        assert (await get(it.port, "/-/healthy"))[0] == 200
        if status == 401:
            assert (await get(it.port, "/", Authorization="Bearer secret"))[0] == 200


async def test_a_port_in_use_names_its_option():
    """A port that is taken ends the start with the option that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for text, option in (
            (f"[web]\nlisten_address = '127.0.0.1:{port}'\n", "web.listen_address"),
            (f"{PAGE}listen_address = '127.0.0.1:{port}'\n", "sink[0].listen_address"),
        ):
            with pytest.raises(StartError) as caught:
                async with opened(text):
                    pass
            assert str(caught.value).startswith(f"{option}: cannot listen at 127.0.0.1:{port}: ")


def test_a_socket_is_taken_over():
    """The socket that systemd hands over as `web` serves, and its original stays."""
    script = """
import asyncio, os, sys
from support.web import get, opened
async def main():
    os.environ["LISTEN_PID"] = str(os.getpid())
    for _ in range(2):
        async with opened("[web]\\nlisten_address = '127.0.0.1:1'") as it:
            assert (await get(it.port, "/-/healthy"))[0] == 200
            print(it.port)
    os.fstat(4)
asyncio.run(main())
"""
    with socket.create_server(("127.0.0.1", 0)) as sock, socket.socket() as other:
        result = subprocess.run(
            [sys.executable, "-c", _passing(other.fileno(), sock.fileno(), script)],
            env={
                **os.environ,
                "LISTEN_FDS": "2",
                "LISTEN_FDNAMES": "other:web",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            pass_fds=[sock.fileno(), other.fileno()],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert result.stdout.split() == [str(sock.getsockname()[1])] * 2


def _passing(first: int, second: int, script: str) -> str:
    """Put the descriptors where the protocol wants them, 3 and 4, and run the script."""
    return (
        f"import os\na, b = os.dup({first}), os.dup({second})\n"
        f"a, b = (os.dup2(x, 100 + i) for i, x in enumerate((a, b)))\n"
        f"os.dup2(a, 3); os.dup2(b, 4)\n{script}"
    )
