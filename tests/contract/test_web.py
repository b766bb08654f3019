"""The listener, met by curl, and its `web.yml` by Prometheus' own tool."""

import asyncio
from pathlib import Path

import bcrypt
import pytest

from support.certificates import certificate
from support.servers import needs
from support.web import opened
from virtstatd.serving.passwords import made
from virtstatd.testing import make_batch


PAGE = "[[sink]]\ntype = 'prometheus'\n"
HERE = "[web]\nlisten_address = ':0'\n"


async def curl(port: int, *options: str, host: str = "localhost", path: str = "/metrics") -> int:
    """Return the status that curl gets, 0 where it gets none."""
    target = f"{host}:{port}{path}"
    url = target if "--cacert" not in options else f"https://{target}"
    command = ("curl", "--silent", "--globoff", "--output", "/dev/null", "--write-out")
    process = await asyncio.create_subprocess_exec(
        *command, "%{http_code}", *options, url, stdout=asyncio.subprocess.PIPE
    )
    written, _ = await process.communicate()
    return int(written)


@needs("curl")
async def test_a_user_logs_in():
    """Curl sees the page with the right password alone, by IPv4 and by IPv6 alike."""
    async with opened(f"{HERE}users = {{ ann = '{made('secret')}' }}\n{PAGE}") as it:
        await it.send(make_batch(3))
        assert await curl(it.port) == 401
        assert await curl(it.port, "--user", "ann:secret", host="[::1]") == 200
        assert await curl(it.port, "--user", "ann:secret", host="127.0.0.1") == 200
        assert await curl(it.port, "--user", "ann:wrong") == 401  # the next one has to wait
        assert await curl(it.port, path="/-/healthy") == 200


@needs("curl")
@pytest.mark.parametrize("mode", ["require", "accept"])
async def test_a_certificate_of_a_client(tmp_path: Path, mode: str):
    """Curl sees the page with a certificate that is known; without one where a token will do."""
    files, client = certificate(tmp_path), certificate(tmp_path, "scraper")
    token = tmp_path / "token"
    token.write_text("t0ken")
    text = (
        f"{HERE}certificate_file = '{files[0]}'\nkey_file = '{files[1]}'\n"
        f"client_ca_file = '{client[0]}'\nclient_certificates = '{mode}'\n"
    )
    text += f"token_files = {{ t = '{token}' }}\n" if mode == "accept" else ""
    async with opened(text + PAGE) as it:
        trust = ("--cacert", str(files[0]))
        shown = ("--cert", str(client[0]), "--key", str(client[1]))
        assert await curl(it.port, *trust, *shown) == 200
        assert await curl(it.port, *trust) == (401 if mode == "accept" else 0)
        if mode == "accept":
            assert await curl(it.port, *trust, "--header", "Authorization: Bearer t0ken") == 200
        assert await curl(it.port, *trust, "--tls-max", "1.1", "--tlsv1.0") == 0


@needs("curl", "promtool")
async def test_a_web_yml_is_that_of_the_exporters(tmp_path: Path):
    """A file that Prometheus' tool calls good protects the page as it says."""
    files = certificate(tmp_path)
    hashed = bcrypt.hashpw(b"test", bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
    (tmp_path / "web.yml").write_text(
        f"tls_server_config:\n  cert_file: {files[0].name}\n  key_file: {files[1].name}\n"
        f"basic_auth_users:\n  alice: {hashed}\n"
        "http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=60\n"
    )
    judged = await asyncio.create_subprocess_exec(
        "promtool", "check", "web-config", str(tmp_path / "web.yml")
    )
    assert await judged.wait() == 0
    async with opened(f"{HERE}web_config_file = '{tmp_path / 'web.yml'}'\n{PAGE}") as it:
        trust = ("--cacert", str(files[0]))
        assert await curl(it.port, *trust) == 401
        assert await curl(it.port, *trust, "--user", "alice:test") == 200
        assert await curl(it.port, *trust, "--user", "alice:no") == 401
