"""Whether destinations can be connected to, and that nothing is sent to them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from virtstatd.commands.doctor.destinations import (
    Destination,
    connect,
    destinations_of,
    sink_checks,
)
from virtstatd.config.file import parse_config
from virtstatd.errors import StartError


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ('type = "influx"\nurl = "https://i"', [("i", 443, True)]),
        ('type = "influx"\nurl = "http://i:8086"', [("i", 8086, False)]),
        ('type = "influx"\nurl = "http://i"\nproxy_url = "http://p:31"', [("p", 31, False)]),
        (
            'type = "nats"\nservers = ["nats://a", "tls://b:1"]',
            [("a", 4222, False), ("b", 1, False)],
        ),
        ('type = "kafka"\nbrokers = ["a:1", "b:2"]', [("a", 1, False), ("b", 2, False)]),
        ('type = "mqtt"\naddress = "[::1]:1"\ntls = true', [("::1", 1, True)]),
        ('type = "postgres"\nurl = "postgresql://h/d"', [("h", 5432, False)]),
        ('type = "postgres"\nurl = "postgresql:///d?host=/run/p"', []),
        ('type = "statsd"\naddress = "a:1"', []),
        ('type = "graphite"\naddress = "a:2003"', [("a", 2003, False)]),
        ('type = "null"', []),
        ('type = "prometheus"', []),
    ],
)
def test_where_a_sink_connects_to(options: str, places: list[tuple[str, int, bool]]):
    """The address is taken from the sink's options; datagrams and files have none."""
    config = parse_config(f"[[sink]]\n{options}\n", "x")

    found = destinations_of(config.sinks[0])
    assert [(each.host, each.port, each.tls) for each in found] == places


SINKS = parse_config(
    '[[sink]]\ntype = "influx"\nurl = "http://a:1"\n[[sink]]\ntype = "mqtt"\naddress = "b:2"\n', "x"
).sinks


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (None, "ok", "takes connections"),
        (ConnectionRefusedError(111, "Connection refused"), "missing", "Connection refused"),
        (TimeoutError("timed out"), "missing", "timed out"),
        (StartError("cannot read credential:x"), "note", "credentials are the service's own"),
    ],
)
def test_each_sink_has_a_result(error: Exception | None, state: str, said: str):
    """Every destination is tried by itself; what fails is reported with its reason."""

    def tried(place: Destination) -> None:
        if error is not None and place.port == 1:
            raise error

    first, second = sink_checks(SINKS, tried)
    assert (first.what, first.state) == ("sink influx", state)
    assert said in first.text
    assert (second.what, second.state) == ("sink mqtt", "ok")


def test_an_unknown_authority_is_named():
    """A certificate that is not trusted is missing its authority, not its destination."""

    def tried(_: Destination) -> None:
        error = ssl.SSLCertVerificationError(1, "x")
        error.verify_message = "self-signed certificate"
        raise error

    check = next(sink_checks(SINKS, tried))
    assert check.text.endswith("self-signed certificate")
    assert "ca_file" in check.fix


def test_no_sink_is_a_note():
    """Without a sink nothing is sent, which may be wanted."""
    (check,) = sink_checks(())
    assert (check.what, check.state) == ("sinks", "note")


@contextmanager
def listening(received: list[bytes]) -> Iterator[int]:
    """Listen, and keep all that one client sends until it hangs up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                while chunk := sock.recv(4096):
                    received.append(chunk)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def test_nothing_is_sent():
    """A destination sees a connection that ends, and not one byte."""
    received: list[bytes] = []
    with listening(received) as port:
        connect(Destination("127.0.0.1", port))
    assert received == []
    with pytest.raises(OSError, match=r"refused"):
        connect(Destination("127.0.0.1", port))
