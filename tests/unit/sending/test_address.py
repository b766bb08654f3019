"""Addresses to listen at, and sockets that were handed over."""

import errno
import os
import socket
from pathlib import Path

import pytest

from virtstatd.errors import PortInUse, StartError
from virtstatd.sending.address import bound, check_port, inherited, split_address


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("127.0.0.1:9766", ("127.0.0.1", 9766)),
        ("[::1]:9766", ("::1", 9766)),
        (":9766", ("", 9766)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses(address: str, wanted: tuple[str, int]):
    """Addresses are host and port, IPv6 in brackets, no host for all of them."""
    assert split_address(address) == wanted


@pytest.mark.parametrize("address", ["", "9766", "::1:9766", "a:b", "a:70000", "a:-1", "a:1²"])
def test_bad_addresses(address: str):
    """What is no address is refused with what it must be."""
    with pytest.raises(ValueError, match=r"^must "):
        split_address(address)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "x", "LISTEN_FDNAMES": "web", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "other", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_sockets_of_others_are_left_alone(environ: dict[str, str]):
    """Sockets for another process or of another name are not taken."""
    assert inherited("web", environ) is None


def has_ipv6() -> bool:
    """Tell whether the loopback has its address of version 6."""
    table = Path("/proc/net/if_inet6")
    return table.exists() and f"{1:032x}" in table.read_text(encoding="ascii")


def reached(port: int) -> list[str]:
    """Return at which addresses of the loopback somebody listens."""
    found = []
    for family, host in (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"):
        with socket.socket(family) as client:
            if client.connect_ex((host, port)) == 0:
                found.append(host)
    return found


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        (":0", ["127.0.0.1", "::1"]),
        ("[::]:0", ["127.0.0.1", "::1"]),
        ("0.0.0.0:0", ["127.0.0.1"]),
        ("[::1]:0", ["::1"]),
        ("127.0.0.1:0", ["127.0.0.1"]),
    ],
)
async def test_an_address_is_reached_by_both_versions_of_ip(address: str, wanted: list[str]):
    """Without a host every address of the machine is meant, of IPv4 and IPv6."""
    with await bound(address) as sock:
        assert reached(sock.getsockname()[1]) == wanted
    check_port(address)


async def test_without_ipv6_every_address_is_those_of_ipv4(monkeypatch: pytest.MonkeyPatch):
    """A kernel that knows no IPv6 serves its addresses of IPv4."""
    make = socket.socket

    def refusing(family: int = socket.AF_INET, *args: int, **more: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family, *args, **more)

    monkeypatch.setattr(socket, "socket", refusing)
    with await bound(":0") as sock:
        monkeypatch.undo()
        assert reached(sock.getsockname()[1]) == ["127.0.0.1"]


async def test_a_port_in_use_is_one_sentence():
    """A port that is taken is reported in one sentence with the remedy, and with its number."""
    with await bound("127.0.0.1:0") as sock:
        port = sock.getsockname()[1]
        with pytest.raises(PortInUse, match=r"in use; stop .* or choose another port$") as caught:
            await bound(f"127.0.0.1:{port}")
        assert caught.value.port == port
    with await bound(f"127.0.0.1:{port}"):  # free again at once
        pass


async def test_an_address_of_another_machine_is_one_sentence():
    """An address that this host does not have is reported in one sentence with the remedy."""
    with pytest.raises(StartError, match="is not one of this machine; choose one that is"):
        await bound("192.0.2.1:9766")
