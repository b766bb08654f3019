"""Hostile clients: whatever they send, the simulator lives and the others are answered."""

import json
import math
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.simulator import Simulated, simulated, unpack_error
from virtstatd_simulator.answers.table import LAST, TABLE
from virtstatd_simulator.faults.verbs import VERBS, Parameter, shown
from virtstatd_simulator.guests.events import WIRE
from virtstatd_simulator.guests.guests import random_guests
from virtstatd_simulator.guests.limits import LIMITS
from virtstatd_simulator.guests.profiles import PROFILES
from virtstatd_simulator.wire import rpc
from virtstatd_simulator.wire.rpc import Frames, Header
from virtstatd_simulator.wire.xdr import pack_array, pack_optional, pack_uint


often = settings(max_examples=80, deadline=None)

OPEN = pack_optional("qemu:///system") + pack_uint(0)
HOSTNAME = 59
# a guest keeps its UUID and its place in the order of the seed
GUESTS = [guest.pack() for guest in islice(random_guests(PROFILES["mixed"], 1), 8)]
words = st.sampled_from(
    [0, 1, 2, 16, 128, 300, 16384, 16385, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
) | st.integers(0, (1 << 32) - 1)


class Plain:
    """A client that sends bytes, and gives up on a simulator that is silent for long."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.frames = Frames()

    def send(self, blob: bytes) -> None:
        """Send, also to a simulator that has hung up."""
        with suppress(ConnectionError):
            self.socket.sendall(blob)

    def hear(self) -> list[tuple[Header, bytes]]:
        """Shut the sending side, and return every frame until the simulator hangs up."""
        with suppress(ConnectionError):
            self.socket.shutdown(socket.SHUT_WR)
            while blob := self.socket.recv(1 << 20):
                self.frames.feed(blob)
        self.socket.close()
        return list(self.frames)

    def call(self, procedure: int, arguments: bytes = b"") -> tuple[Header, bytes]:
        """Call and wait for the answer."""
        self.send(call(procedure, arguments))
        while (frame := next(self.frames, None)) is None:
            blob = self.socket.recv(1 << 20)
            assert blob, "hung up on"
            self.frames.feed(blob)
        return frame


def call(procedure: int, arguments: bytes = b"", serial: int = 1) -> bytes:
    """Make the frame of a call."""
    header = Header(rpc.REMOTE_PROGRAM, rpc.REMOTE_VERSION, procedure, rpc.CALL, serial, rpc.OK)
    return rpc.frame(header, len(arguments)) + arguments


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    """Run a small host; in the end it must not have complained of anything."""
    folder = tmp_path_factory.mktemp("host")
    with simulated(folder, "--domains=8", "--job-wait-seconds=0.01") as host:
        yield host


@pytest.fixture(scope="module")
def bystander(host: Simulated) -> Iterator[Plain]:
    """Connect a client that minds its own business."""
    client = Plain(host.socket)
    client.call(1, OPEN)
    yield client
    client.socket.close()


def undisturbed(bystander: Plain, host: Simulated) -> None:
    """Check that the bystander is answered, and that a newcomer is."""
    newcomer = Plain(host.socket)
    assert newcomer.call(1, OPEN)[0].status == rpc.OK
    for client in (bystander, newcomer):
        assert b"simulated" in client.call(HOSTNAME)[1]
    newcomer.socket.close()


@often
@given(st.binary(max_size=400))
def test_noise_is_no_danger(host: Simulated, bystander: Plain, noise: bytes) -> None:
    """Random bytes get at most errors back."""
    client = Plain(host.socket)
    client.send(noise)
    assert all(head.status == rpc.ERROR for head, _ in client.hear())
    undisturbed(bystander, host)


@often
@given(
    procedure=st.sampled_from(sorted(TABLE)) | st.integers(-5, LAST + 9),
    guest=st.sampled_from([b"", *GUESTS]),
    numbers=st.lists(words, max_size=12),
)
def test_no_argument_is_a_danger(
    host: Simulated, bystander: Plain, procedure: int, guest: bytes, numbers: list[int]
) -> None:
    """Every procedure answers once whatever its arguments are, with a reply of its own serial."""
    arguments = guest + b"".join(map(pack_uint, numbers))
    client = Plain(host.socket)
    client.send(call(1, OPEN) + call(procedure, arguments, serial=7))
    (opened, _), *answers = client.hear()
    assert opened.status == rpc.OK
    assert [(head.serial, head.type, head.procedure) for head, _ in answers] == [
        (7, rpc.REPLY, procedure)
    ]
    undisturbed(bystander, host)


@often
@given(st.data())
def test_no_half_sentence_is_a_danger(
    host: Simulated, bystander: Plain, data: st.DataObject
) -> None:
    """A valid conversation that is cut, flipped or repeated anywhere ends in peace."""
    talk = (
        call(1, OPEN) + call(273, pack_uint(1) * 2) + call(344, pack_array([]) + pack_uint(0) * 2)
    )
    blob = bytearray(talk * data.draw(st.integers(1, 3)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at] ^= data.draw(st.integers(1, 255))
    client = Plain(host.socket)
    client.send(bytes(blob[: data.draw(st.integers(0, len(blob)))]))
    client.hear()
    undisturbed(bystander, host)


@pytest.mark.parametrize("size", [0, 4, 27, rpc.MAX_MESSAGE + 5, (1 << 32) - 1])
def test_a_frame_that_cannot_be_ends_the_connection(
    host: Simulated, bystander: Plain, size: int
) -> None:
    """Lengths below a header or above 32 MiB are hung up on, and cost no memory."""
    client = Plain(host.socket)
    client.send(struct.pack(">I", size) + bytes(24))
    assert client.socket.recv(1) == b""
    client.socket.close()
    undisturbed(bystander, host)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (Header(rpc.REMOTE_PROGRAM, 1, 9999, 0, 3, 0), "unknown procedure: 9999"),
        (Header(rpc.REMOTE_PROGRAM, 1, 318, 0, 3, 0), "unknown procedure: 318"),
        (Header(rpc.REMOTE_PROGRAM, 1, -5, 0, 3, 0), "unknown procedure: -5"),
        (Header(0x1234, 1, 1, 0, 3, 0), "Cannot find program 4660 version 1"),
        (Header(rpc.REMOTE_PROGRAM, 7, 1, 0, 3, 0), "Cannot find program 536903814 version 7"),
        (Header(rpc.KEEPALIVE_PROGRAM, 1, 1, 0, 3, 0), "Cannot find program 1801807216 version 1"),
        (Header(rpc.REMOTE_PROGRAM, 1, HOSTNAME, 0, 3, 1), "Unexpected message status 1"),
        (Header(rpc.REMOTE_PROGRAM, 1, 14, 0, 3, 0), "Unable to decode message payload"),
        (Header(rpc.REMOTE_PROGRAM, 1, 11, 0, 3, 0), None),
    ],
)
def test_refusals_are_libvirtds(host: Simulated, header: Header, words: str | None) -> None:
    """Words and code are what libvirtd 9.0 answered to the same frame."""
    client = Plain(host.socket)
    client.call(1, OPEN)
    client.send(rpc.frame(header, 0))
    ((answer, payload),) = client.hear()
    assert (answer.serial, answer.procedure, answer.status) == (3, header.procedure, rpc.ERROR)
    code, domain, message = unpack_error(payload)
    if words is None:  # libvirt has it, the simulator has not
        assert (code, message[:30]) == (3, "this function is not supported")
    else:
        assert (code, domain, message) == (39, 7, words)


def test_before_opening_there_is_no_hypervisor(host: Simulated) -> None:
    """What needs a hypervisor is refused until one was opened, in libvirtd's words."""
    client = Plain(host.socket)
    head, payload = client.call(157)
    assert head.status == rpc.ERROR
    assert unpack_error(payload) == (1, 7, "internal error: hypervisor connection not open")
    assert client.call(66) == (head._replace(procedure=66, status=rpc.OK), pack_uint(1) + bytes(4))
    client.socket.close()


@pytest.mark.parametrize("type_", [rpc.REPLY, rpc.MESSAGE, rpc.STREAM, 9])
def test_what_is_no_call_gets_no_answer(host: Simulated, type_: int) -> None:
    """Replies, messages and stream data of a client are dropped, and the next call is served."""
    client = Plain(host.socket)
    client.call(1, OPEN)
    client.send(rpc.frame(Header(rpc.REMOTE_PROGRAM, 1, HOSTNAME, type_, 2, 0), 0) * 9)
    assert b"simulated" in client.call(HOSTNAME)[1]
    client.socket.close()


def test_a_client_that_never_reads_harms_itself_alone(host: Simulated, bystander: Plain) -> None:
    """Replies that are not read wait in their own connection."""
    client = Plain(host.socket)
    client.call(1, OPEN)
    for _ in range(5):
        client.send(call(344, pack_array([]) + pack_uint(0) * 2) * 10)
        undisturbed(bystander, host)
    client.socket.close()
    undisturbed(bystander, host)


# the control socket: other hosts than those above, for commands restart them and end their guests


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    """Run a small host that is there for commands."""
    with simulated(tmp_path_factory.mktemp("host"), "--domains=8", "--profile=small") as host:
        yield host


# words that only mean something to a Python programmer
PYTHONS = re.compile(
    r"\b(None|True|False|NoneType|str|int|float|bool|dict|tuple|codec|decode|traceback"
    r"|positional|unpack|iterable|subscriptable|hashable|instance of|no attribute|\w+Error)\b|<|\\x"
)
QUOTED = re.compile(r'"(\\.|[^"\\])*("|\\?\.\.\.)')  # values of the command itself


def answered(host: Simulated, line: bytes) -> dict[str, object]:
    """Send one line to the control socket, and return the one line that answers it."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(20)
        control.connect(str(host.control))
        with suppress(ConnectionError):  # a line that is too long is not read to its end
            control.sendall(line + b"\n")
            control.shutdown(socket.SHUT_WR)
        with control.makefile() as lines:
            (text,) = lines
    answer = json.loads(text)
    assert isinstance(answer, dict)
    if answer["ok"] is not True:
        assert answer.keys() == {"ok", "error"}
        assert not PYTHONS.search(QUOTED.sub("", answer["error"])), answer
    return answer


# no number here is a long wait
odd_numbers = st.sampled_from(
    [0, 1, -1, -(1 << 70), 1 << 70, 0.001, -0.5, 1e308, math.nan, math.inf, -math.inf]
)
odd_words = st.text(max_size=6) | st.sampled_from(
    ["instance-00000001", "hard_limit", "weight", "AUTH_LIST", "\ud800", "\0", "x" * 300]
)
odd = st.recursive(
    st.none() | st.booleans() | odd_numbers | odd_words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_words, inner, max_size=3),
    max_leaves=6,
)
typed = st.lists(st.tuples(odd_words, st.integers(0, 8), odd), max_size=2)
odder = {  # where nonsense alone seldom comes far
    "id": st.sampled_from(sorted(WIRE)) | odd,
    "arguments": st.lists(typed, min_size=1, max_size=1) | st.lists(odd_words | odd_numbers) | odd,
    "limits": st.dictionaries(st.sampled_from(sorted(LIMITS)), odd, max_size=2) | odd,
    "domains": st.just(["instance-00000001"]) | odd,
}


def nonsense(parameter: Parameter) -> st.SearchStrategy[object]:
    """Make values that an argument seldom may have."""
    return odder.get(parameter.name, odd_numbers | odd if parameter.high else odd)


HARMLESS: dict[str, dict[str, object]] = {
    "thaw": {},
    "clear": {},
    "release": {},
    "start_time": {},
    "churn": {"per_second": 0},
}


@often
@given(st.binary(max_size=60) | odd.map(json.dumps).map(str.encode))
@example(b"[" * 100_000)
@example(b'{"do": "start", "count": ' + b"9" * 5000 + b"}")
@example(b'{"do": "fail", "message": "' + b"x" * (1 << 20) + b'"}')
def test_a_line_that_is_no_command_is_refused(commanded: Simulated, line: bytes) -> None:
    """Whatever a line holds, it is answered by one line with the reason."""
    answer = answered(commanded, line.replace(b"\n", b" "))
    assert (answer["ok"], answer["error"] != "") == (False, True)


@pytest.mark.parametrize("name", VERBS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_argument_of_a_verb_is_a_danger(
    commanded: Simulated, name: str, data: st.DataObject
) -> None:
    """A verb with any arguments gets one line, which names the wrong one; all are served."""
    known = {each.name: nonsense(each) for each in VERBS[name].parameters}
    command = data.draw(st.fixed_dictionaries({}, optional=known))
    if not command:
        command = data.draw(st.dictionaries(odd_words, odd, max_size=1))
    answer = answered(commanded, json.dumps({**command, "do": name}).encode())
    beyond = [
        each.name
        for each in VERBS[name].parameters
        if isinstance(value := command.get(each.name), float | int)
        and not isinstance(value, bool)
        and not each.low <= value <= each.high
    ]
    if beyond or not command.keys() <= known.keys():
        assert answer["ok"] is False
    if not answer["ok"]:
        named = {*known, *map(shown, command), "the line has"}  # half of a pair of surrogates
        assert any(each in str(answer["error"]) for each in named)
    for verb, arguments in HARMLESS.items():
        commanded.do(verb, **arguments)
    client = Plain(commanded.socket)
    assert client.call(1, OPEN)[0].status == rpc.OK
    assert client.call(344, pack_array([]) + pack_uint(0) * 2)[0].status == rpc.OK
    client.socket.close()
