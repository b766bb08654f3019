"""Files of Prometheus' exporter-toolkit."""

import ssl
from pathlib import Path

import bcrypt
import pytest

from virtstatd.errors import StartError
from virtstatd.serving.web_config import read_web_config


HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
TLS = "tls_server_config:\n  cert_file: a.crt\n  key_file: sub/a.key\n"


def written(folder: Path, text: str) -> Path:
    """Write a file."""
    path = folder / "web.yml"
    path.write_text(text)
    return path


def test_users_certificates_and_headers(tmp_path: Path):
    """All that the toolkit knows is read; files are relative to the one that names them."""
    text = f"""
{TLS}
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: /ca.crt
  client_allowed_sans: [prometheus.example]
  min_version: TLS13
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: true
http_server_config:
  http2: false
  headers:
    Strict-Transport-Security: max-age=3600
basic_auth_users:
  ann: {HASH}
"""
    read = read_web_config(written(tmp_path, text))
    assert read.users == {"ann": HASH}
    assert read.headers == {"Strict-Transport-Security": "max-age=3600"}
    assert read.tls.certificate == tmp_path / "a.crt"
    assert read.tls.key == tmp_path / "sub/a.key"
    assert read.tls.client_ca == Path("/ca.crt")
    assert read.tls.certificates == "require"
    assert read.tls.allowed_names == {"prometheus.example"}
    assert (read.tls.least, read.tls.most) == (ssl.TLSVersion.TLSv1_3, None)
    assert read.tls.ciphers == ("ECDHE-RSA-AES128-GCM-SHA256",)


@pytest.mark.parametrize("text", ["", "# nothing\n", "basic_auth_users:\n", "{}"])
def test_a_file_that_says_nothing(tmp_path: Path, text: str):
    """An empty file turns nothing on, as with the exporters."""
    read = read_web_config(written(tmp_path, text))
    assert (read.users, read.tls.certificate) == ({}, None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tls_server_config:\n  cert_file: a\n", "needs cert_file and key_file"),
        (f"{TLS}  client_auth_type: RequireAnyClientCert\n", "does not verify"),
        (f"{TLS}  client_auth_type: VerifyClientCertIfGiven\n", "go together"),
        (f"{TLS}  client_ca_file: /ca\n", "go together"),
        (f"{TLS}  client_allowed_sans: [a]\n", "client_allowed_sans needs"),
        (f"{TLS}  min_version: TLS10\n", "TLS10 is not supported any more"),
        (f"{TLS}  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n", "is not known"),
        (f"{TLS}  curve_preferences: [X25519]\n", "curve_preferences"),
        ("basic_auth_users:\n  ann: secret\n", "ann: must be a hash"),
        ("http_server_config:\n  headers:\n    Date: x\n", "Date cannot be set"),
        ("basic_auth_user:\n  a: b\n", "basic_auth_user"),
        ("a: [", "while parsing"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
    ],
)
def test_what_it_asks_for_and_cannot_be_had_is_an_error(tmp_path: Path, text: str, fault: str):
    """A file that protects another exporter never protects this one less, without a word."""
    with pytest.raises(StartError) as caught:
        read_web_config(written(tmp_path, text))
    assert str(caught.value).startswith(f"cannot use {tmp_path}/web.yml: ")
    assert fault in str(caught.value)
