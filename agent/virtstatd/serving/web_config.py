"""
A `web.yml` as Prometheus' exporters read it, by the exporter-toolkit's rules.

Names of files are relative to its own. What it asks for and cannot be had here is an error: a file
that protects one exporter must not protect another one less.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from virtstatd.errors import StartError
from virtstatd.runtime.installing import installing
from virtstatd.serving.passwords import fault_of


VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
CLIENTS: Final[dict[str, Literal["none", "accept", "require"]]] = {
    "": "none",
    "NoClientCert": "none",
    "VerifyClientCertIfGiven": "accept",
    "RequireAndVerifyClientCert": "require",
}
CIPHERS: Final = {  # the names of Go's crypto/tls, and OpenSSL's
    f"TLS_ECDHE_{key}_WITH_{name}": f"ECDHE-{key}-{openssl}"
    for key in ("ECDSA", "RSA")
    for name, openssl in {
        "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
        "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
        "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
        "CHACHA20_POLY1305": "CHACHA20-POLY1305",
        "AES_128_CBC_SHA": "AES128-SHA",
        "AES_256_CBC_SHA": "AES256-SHA",
    }.items()
}
HEADERS: Final = (
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Files and rules of a server's TLS; no certificate is no TLS."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    certificates: Literal["none", "accept", "require"] = "none"
    allowed_names: frozenset[str] = frozenset()
    least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    most: ssl.TLSVersion | None = None
    ciphers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What such a file says."""

    tls: TlsConfig = field(default_factory=TlsConfig)
    users: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


_Version = Annotated[str, Meta(pattern=r"^(TLS1[0123])?\Z")]


class _Tls(Struct, forbid_unknown_fields=True):
    cert_file: str = ""
    key_file: str = ""
    client_auth_type: str = ""
    client_ca_file: str = ""
    client_allowed_sans: tuple[str, ...] = ()
    min_version: _Version = "TLS12"
    max_version: _Version = ""
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True


class _Http(Struct, forbid_unknown_fields=True):
    http2: bool = True
    headers: dict[str, str] = {}


class _File(Struct, forbid_unknown_fields=True):
    tls_server_config: _Tls | None = None
    http_server_config: _Http | None = None
    basic_auth_users: dict[str, str] | None = None


def read_web_config(path: Path) -> WebConfig:
    """Read a file; raise StartError with what is wrong with it."""
    try:
        import yaml
    except ImportError:
        fix = installing("virtstatd[web]")
        raise StartError(f"PyYAML is not installed; {fix}") from None
    try:
        text = path.read_bytes()
        document = yaml.safe_load(text) or {}
        file = msgspec.convert(document, _File)
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, msgspec.ValidationError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise StartError(f"cannot use {path}: {reason}") from error
    users = file.basic_auth_users or {}
    for user, hashed in users.items():
        if fault := fault_of(hashed):
            raise StartError(f"cannot use {path}: basic_auth_users: {user}: {fault}")
    headers = (file.http_server_config or _Http()).headers
    for name, value in headers.items():
        if name not in HEADERS or not value.isprintable():
            raise StartError(f"cannot use {path}: headers: {name} cannot be set")
    tls = _tls(path, file.tls_server_config) if file.tls_server_config else TlsConfig()
    return WebConfig(tls, users, headers)


def _tls(path: Path, tls: _Tls) -> TlsConfig:
    def fault(text: str) -> StartError:
        return StartError(f"cannot use {path}: tls_server_config: {text}")

    if not (tls.cert_file and tls.key_file):
        raise fault("needs cert_file and key_file")
    if tls.client_auth_type not in CLIENTS:
        raise fault(f"client_auth_type: {tls.client_auth_type} does not verify; use another")
    certificates = CLIENTS[tls.client_auth_type]
    if (certificates != "none") != bool(tls.client_ca_file):
        raise fault("client_ca_file and a client_auth_type that verifies go together")
    if tls.client_allowed_sans and certificates != "require":
        raise fault("client_allowed_sans needs RequireAndVerifyClientCert")
    for version in (tls.min_version, tls.max_version):
        if version and version not in VERSIONS:
            raise fault(f"{version} is not supported any more; use TLS12 or TLS13")
    # those of TLS 1.3 cannot be chosen, with Go neither
    suites = [each for each in tls.cipher_suites if each.startswith("TLS_ECDHE_")]
    for suite in tls.cipher_suites:
        if suite not in CIPHERS and not suite.startswith(("TLS_AES_", "TLS_CHACHA20_")):
            raise fault(f"cipher_suites: {suite} is not known")
    folder = path.parent
    return TlsConfig(
        certificate=folder / tls.cert_file,
        key=folder / tls.key_file,
        client_ca=folder / tls.client_ca_file if tls.client_ca_file else None,
        certificates=certificates,
        allowed_names=frozenset(tls.client_allowed_sans),
        least=VERSIONS[tls.min_version or "TLS12"],
        most=VERSIONS[tls.max_version] if tls.max_version else None,
        ciphers=tuple(CIPHERS[suite] for suite in suites),
    )
