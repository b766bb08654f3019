"""Files of the table `[web]`, replaced while the agent runs."""

import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from support.certificates import certificate
from support.web import ask, get, served
from virtstatd.errors import StartError
from virtstatd.serving import settings as settings_module
from virtstatd.serving.options import WebOptions
from virtstatd.serving.settings import LOOK_SECONDS, FollowedSettings, read_settings
from virtstatd.testing import FakeClock


class Followed:
    """Settings under a clock in the test's hand."""

    def __init__(self, options: WebOptions) -> None:
        self.clock = FakeClock()
        self.log = structlog.testing.CapturingLogger()
        self.settings = FollowedSettings(options, self.log, self.clock)

    async def pass_time(self) -> None:
        """Let the next client be the first to look at the files again."""
        await self.clock.advance(LOOK_SECONDS)


@asynccontextmanager
async def followed(options: WebOptions) -> AsyncIterator[Followed]:
    """Follow files."""
    it = Followed(options)
    try:
        yield it
    finally:
        it.settings.close()


async def answered(port: int, tls: ssl.SSLContext) -> bool:
    """Tell whether a client gets any answer."""
    try:
        return bool(await ask(port, b"GET / HTTP/1.0\r\n\r\n", tls=tls))
    except OSError:
        return False


def encrypted(files: tuple[Path, Path]) -> WebOptions:
    """Return options with a certificate."""
    return WebOptions(certificate_file=str(files[0]), key_file=str(files[1]))


async def test_a_renewed_certificate_is_shown_to_the_next_client(tmp_path: Path):
    """A pair that replaces another counts from the next connection on, half of one never."""
    kept, new = certificate(tmp_path), certificate(tmp_path, days=2)
    old_trust, new_trust = (ssl.create_default_context(cafile=each[0]) for each in (kept, new))
    async with (
        followed(encrypted(kept)) as it,
        served(tls=it.settings.context) as (port, _),
    ):
        assert (await get(port, tls=old_trust))[0] == 200
        new[0].replace(kept[0])
        await it.pass_time()
        assert (await get(port, tls=old_trust))[0] == 200
        assert [call.args for call in it.log.calls] == [("web.stale",)]
        new[1].replace(kept[1])
        await it.pass_time()
        assert (await get(port, tls=new_trust))[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await get(port, tls=old_trust)


async def test_old_versions_of_tls_are_not_spoken(tmp_path: Path):
    """A client that speaks nothing newer than TLS 1.1 is not answered."""
    files = certificate(tmp_path)
    old = ssl.create_default_context(cafile=files[0])
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with followed(encrypted(files)) as it, served(tls=it.settings.context) as (port, _):
        assert not await answered(port, old)


@pytest.mark.parametrize("known", [True, False])
async def test_clients_show_certificates(tmp_path: Path, *, known: bool):
    """Where certificates are required, one of another authority or none is not answered."""
    files, mine, other = (certificate(tmp_path, name) for name in ("localhost", "me", "other"))
    options = WebOptions(
        certificate_file=str(files[0]), key_file=str(files[1]), client_ca_file=str(mine[0])
    )
    async with followed(options) as it, served(tls=it.settings.context) as (port, _):
        with_it = ssl.create_default_context(cafile=files[0])
        with_it.load_cert_chain(*(mine if known else other))
        without = ssl.create_default_context(cafile=files[0])
        if known:
            assert (await get(port, tls=with_it))[0] == 200
        for refused in [without] if known else [without, with_it]:
            assert not await answered(port, refused)


async def test_tokens_are_read_again(tmp_path: Path):
    """A token that is replaced counts a second later; while it is away, the one before does."""
    file = tmp_path / "token"
    file.write_text("one\n")
    async with followed(WebOptions(token_files={"a": str(file)})) as it:
        assert (await it.settings.current()).tokens == {"a": "one"}
        file.write_text("another\n")
        assert (await it.settings.current()).tokens == {"a": "one"}
        await it.pass_time()
        assert (await it.settings.current()).tokens == {"a": "another"}
        file.unlink()
        await it.pass_time()
        assert (await it.settings.current()).tokens == {"a": "another"}
        assert [call.args for call in it.log.calls] == [("web.stale",)]


async def test_a_disk_that_hangs_holds_up_one_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """While files cannot be looked at, clients are answered with what was read before."""
    file = tmp_path / "token"
    file.write_text("one\n")
    hung = threading.Event()
    async with followed(WebOptions(token_files={"a": str(file)})) as it:
        marks = settings_module._marks
        monkeypatch.setattr(
            settings_module, "_marks", lambda paths: (hung.wait(100), marks(paths))[1]
        )
        try:
            await it.pass_time()
            assert (await it.settings.current()).tokens == {"a": "one"}
            await it.pass_time()
            for _ in range(100):  # at once, or the suite's limit would end it
                assert (await it.settings.current()).tokens == {"a": "one"}
        finally:
            hung.set()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (WebOptions(certificate_file="/none", key_file="/none"), "certificate_file: cannot use"),
        (WebOptions(token_files={"a": "/none"}), "token_files: a: cannot read /none"),
        (WebOptions(web_config_file="/none"), "web_config_file: cannot read /none"),
        (WebOptions(web_config_file="credential:x"), "web_config_file: there is no credential:x"),
    ],
)
def test_files_that_cannot_be_used_name_their_option(options: WebOptions, text: str):
    """A file that is not there ends the start with the option that names it."""
    with pytest.raises(StartError) as caught:
        read_settings(options)
    assert str(caught.value).startswith(text)
