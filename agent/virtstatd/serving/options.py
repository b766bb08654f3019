"""The table `[web]`: where the agent listens, and who may see what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from virtstatd.sending.address import split_address
from virtstatd.sending.paths import FILE
from virtstatd.serving.passwords import fault_of


DEFAULT_ADDRESS: Final = "127.0.0.1:9766"
EVERYBODY: Final = "*"


class WebOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listener, for the page of `prometheus` sinks and for health; TLS and logins for both."""

    listen_address: Annotated[
        str,
        Meta(
            description="Address and port to listen at; `:9766` is every address. Empty is that"
            " of a `prometheus` sink, or {DEFAULT_ADDRESS}."
        ),
    ] = ""
    certificate_file: Annotated[
        str, Meta(description=f"File of the server's certificate, which turns TLS on: {FILE}.")
    ] = ""
    key_file: Annotated[str, Meta(description=f"File of the certificate's key: {FILE}.")] = ""
    client_ca_file: Annotated[
        str, Meta(description=f"File of the authorities of clients' certificates: {FILE}.")
    ] = ""
    client_certificates: Annotated[
        Literal["require", "accept"],
        Meta(
            description="With client_ca_file: require refuses clients without a certificate, and"
            " users still log in; accept takes a certificate in place of a login."
        ),
    ] = "require"
    users: Annotated[
        dict[str, str],
        Meta(
            description="Hashed passwords by user, of scrypt (`virtstatd password`) or bcrypt"
            " (`htpasswd -nB`)."
        ),
    ] = {}
    token_files: Annotated[
        dict[str, str],
        Meta(description=f"Files of bearer tokens, by a name for each: {FILE}."),
    ] = {}
    access: Annotated[
        dict[str, tuple[str, ...]],
        Meta(
            description="Who may see a path and all below it: users, names of tokens and of"
            ' certificates, "*" for all clients; other paths are for all who log in.'
        ),
    ] = {}
    hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Names under which browsers may open the page, besides addresses and the"
            " host's own name."
        ),
    ] = ()
    web_config_file: Annotated[
        str,
        Meta(
            description="A `web.yml` as for Prometheus' exporters, in place of certificates and"
            " users here."
        ),
    ] = ""
    open: Annotated[
        bool,
        Meta(
            description="Show everything without a login, also at an address that other machines"
            " reach. Otherwise only metrics and health are shown there."
        ),
    ] = False
    connections: Annotated[
        int, Meta(description="Connections at once, of all clients together.", ge=8, le=1024)
    ] = 64
    connections_per_client: Annotated[
        int,
        Meta(description="Connections at once of one address; raise it behind a proxy.", ge=1),
    ] = 32
    history_bytes: Annotated[
        int,
        Meta(
            description="Memory for the last hour of each guest; with more guests the resolution"
            " is lower. 0 keeps none.",
            ge=0,
        ),
    ] = 16777216
    viewers: Annotated[
        int, Meta(description="Viewers of the live page at once; each holds a connection.", ge=1)
    ] = 32


OptionFault = tuple[tuple[str, ...], str]
"""An option, or a key within one, and a clause."""


def faults_of_web(options: WebOptions) -> Iterator[OptionFault]:
    """Yield what is wrong with the table as a whole."""
    if options.listen_address:
        try:
            split_address(options.listen_address)
        except ValueError as error:
            yield ("listen_address",), str(error)
    if bool(options.certificate_file) != bool(options.key_file):
        yield ("key_file",), "certificate_file and key_file go together"
    if options.client_ca_file and not options.certificate_file:
        yield ("client_ca_file",), "needs certificate_file and key_file"
    if options.web_config_file:
        for name in ("certificate_file", "client_ca_file", "users"):
            if getattr(options, name):
                yield (name,), "is for the file web_config_file to say; keep one of both"
    yield from _users(options)
    yield from _access(options)


def _users(options: WebOptions) -> Iterator[OptionFault]:
    for user, hashed in options.users.items():
        if not user or ":" in user:
            yield ("users", user), "a user's name must not be empty or have a colon"
        elif fault := fault_of(hashed):
            yield ("users", user), fault
    for name in options.token_files.keys() & options.users.keys():
        yield ("token_files", name), "is the name of a user too; give another"


def _access(options: WebOptions) -> Iterator[OptionFault]:
    known = {*options.users, *options.token_files, EVERYBODY}
    elsewhere = options.client_ca_file or options.web_config_file  # a file has more names
    for path, names in options.access.items():
        if not path.startswith("/"):
            yield ("access", path), "must begin with /"
        for name in names:
            if name not in known and not elsewhere:
                yield ("access", path), f"{name} is neither a user nor the name of a token"
