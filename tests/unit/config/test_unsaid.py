"""A secret that was written where none belongs: its fault says where, and not what."""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points

import pytest

from virtstatd.config.file import parse_config
from virtstatd.config.options import Option, options
from virtstatd.config.tables import TABLES
from virtstatd.errors import ConfigError


MARK = "Marker1Secret9x"
PLACES = (
    f"https://user:{MARK}@host:1/x",
    f"https://user:{MARK}@host:port/x",
    f"http://[user:{MARK}@host:1/x",
    f"postgresql://user:{MARK}@host/x",
    f"postgresql://user@host/x?password={MARK}",
    f"postgresql:///x?user=x&password={MARK}",
    f"nats://user:{MARK}@host:1",
    f"nats://{MARK}@host:1",
    f"user:{MARK}@host:1",
    f"{MARK}@host:1:1",
    f"qemu+tls://user:{MARK}@host/system",
)
"""A password within each kind of address that people know."""

IS_PLACE = re.compile("url|uri|address|servers|brokers")
TYPES = sorted(each.name for each in entry_points(group="virtstatd.sinks"))
HEADS = [f"[[sink]]\ntype = '{name}'\n" for name in TYPES] + [f"[{name}]\n" for name in TABLES]


def known(head: str) -> list[Option]:
    """Return the options that a table has."""
    if head.startswith("[["):
        (found,) = entry_points(group="virtstatd.sinks", name=head.split("'")[1])
        return list(options(found.load()))
    return list(options(TABLES[head.strip("[]\n")]))


def fault_of(text: str) -> str:
    """Return what is wrong with a file, nothing where nothing is."""
    try:
        parse_config(text, "f")
    except ConfigError as error:
        return f"{error}{error!r}"
    return ""


@pytest.mark.parametrize("head", HEADS, ids=lambda head: re.sub(r"\W+", " ", head).strip())
def test_an_address_with_a_password_is_refused_and_not_repeated(head: str):
    """Every option that is an address refuses a password in it, without a word of it."""
    for option in known(head):
        if not IS_PLACE.search(option.name) or "str" not in str(option.hint):
            continue
        for place in PLACES:
            if option.name == "uri" and f"user:{MARK}@" not in place:
                continue  # URIs of libvirt have users, and parameters of their own
            value = json.dumps([place] if "tuple" in str(option.hint) else place)
            fault = fault_of(f"{head}{option.name} = {value}\n")
            assert option.name in fault, f"{place} is taken"
            assert MARK not in fault


@pytest.mark.parametrize("head", HEADS, ids=lambda head: re.sub(r"\W+", " ", head).strip())
def test_a_secret_in_the_wrong_place_is_not_repeated(head: str):
    """An unknown option, a wrong type and a broken line show no value."""
    for line in (
        f'password = "{MARK}"',
        f'token = ["{MARK}"]',
        f'secret = {{a = "{MARK}"}}',
        f"password = {MARK}",
        f'password = "{MARK}',
        f'"{MARK}" "',
    ):
        fault = fault_of(f"{head}{line}\n")
        assert fault
        assert MARK not in fault
    for option in known(head):
        for value in (f'["{MARK}"]', f'{{a = "{MARK}"}}', f'[["{MARK}"]]'):
            if option.name.endswith("_file") or option.name == "users":
                fault = fault_of(f"{head}{option.name} = {value}\n")
                assert option.name in fault
                assert MARK not in fault
