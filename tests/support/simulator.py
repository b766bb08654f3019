"""A simulator as its clients have it: a process with a socket, and the clients that try it."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from virtstatd_simulator.wire import rpc
from virtstatd_simulator.wire.rpc import Frames, Header
from virtstatd_simulator.wire.xdr import Reader, pack_optional, pack_uint


READ = {1: "int", 2: "uint", 3: "hyper", 4: "uhyper", 5: "double", 6: "int", 7: "string"}

# runs in a process of its own: libvirt's event loop is one per process and never ends
INTERPRETER = """
import json, sys, threading, libvirt
libvirt.registerErrorHandler(lambda *_: None, None)
names = {"libvirt": libvirt, "threading": threading}
for line in sys.stdin:
    try:
        code = json.loads(line)
        try:
            answer = eval(code, names)
        except SyntaxError:
            answer = exec(code, names)
        answer = {"value": answer}
    except libvirt.libvirtError as error:
        answer = {"error": [error.get_error_code(), error.get_error_domain(), str(error)]}
    print(json.dumps(answer, default=str), flush=True)
"""


class LibvirtError(Exception):
    """What libvirt-python raised over there: code, domain, message."""


class Python:
    """libvirt-python in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", INTERPRETER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, code: str) -> None:
        """Start an expression or statement over there."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """Wait for what it came to."""
        assert self.process.stdout
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise LibvirtError(*answer["error"])
        return answer["value"]

    def __call__(self, code: str) -> Any:
        """Evaluate over there."""
        self.tell(code)
        return self.hear()

    def close(self) -> None:
        """End the process and its pipes."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def python(uri: str | None = None) -> Iterator[Python]:
    """Run libvirt-python; with `uri`, `c` is a read-only connection to it."""
    client = Python()
    try:
        if uri is not None:
            client(f"c = libvirt.openReadOnly({uri!r})")
        yield client
    finally:
        client.close()


def virsh(uri: str, *arguments: str) -> str:
    """Run a virsh command and return its output, or that of its failure."""
    done = subprocess.run(
        ["virsh", "-q", "-c", uri, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


class Simulated:
    """A simulator in a process of its own, and its control socket."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket, self.control = folder / "socket", folder / "control"
        self.uri = f"qemu+unix:///system?socket={self.socket}"
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "virtstatd_simulator",
                f"--socket={self.socket}",
                f"--control={self.control}",
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.ready = self.process.stdout.readline()
        self._control = socket.socket(socket.AF_UNIX)
        self._control.connect(str(self.control))
        self._lines = self._control.makefile("rw")

    def do(self, verb: str, **arguments: object) -> Any:
        """Carry out a command."""
        self._lines.write(json.dumps({"do": verb, **arguments}) + "\n")
        self._lines.flush()
        answer = json.loads(self._lines.readline())
        assert answer.pop("ok"), answer
        return answer

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Ask for the status until it is as wanted."""
        while not condition(self.do("status")):
            pass

    def close(self) -> str:
        """End it and return its complaints."""
        self._lines.close()
        self._control.close()
        self.process.terminate()
        return self.process.communicate(timeout=100)[1]


@contextmanager
def simulated(folder: Path, *options: str) -> Iterator[Simulated]:
    """Run a simulator that has nothing to complain of and ends well."""
    simulator = Simulated(folder, *options)
    try:
        yield simulator
    finally:
        complaints = simulator.close()
    code = simulator.process.returncode
    assert (code, complaints) == (0, ""), f"ended with {code}: {complaints[-2000:]}"
    assert not simulator.socket.exists()


class Wire:
    """A client that sends any frame and shows those that come back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.frames = Frames()
        self.serial = 0

    async def send(
        self,
        procedure: int,
        arguments: bytes = b"",
        *,
        program: int = rpc.REMOTE_PROGRAM,
        version: int = 1,
        type_: int = rpc.CALL,
        status: int = rpc.OK,
    ) -> None:
        """Send a frame."""
        self.serial += 1
        header = Header(program, version, procedure, type_, self.serial, status)
        self.writer.write(rpc.frame(header, len(arguments)) + arguments)
        await self.writer.drain()

    async def receive(self) -> tuple[Header, bytes] | None:
        """Wait for a frame; None when the simulator has hung up."""
        while (frame := next(self.frames, None)) is None:
            try:
                blob = await self.reader.read(1 << 20)
            except ConnectionError:
                return None
            if not blob:
                return None
            self.frames.feed(blob)
        return frame

    async def call(self, procedure: int, arguments: bytes = b"", **header: int) -> bytes:
        """Call and return the payload; raises `LibvirtError` when an error comes back."""
        await self.send(procedure, arguments, **header)
        answer = await self.receive()
        assert answer is not None, "hung up"
        head, payload = answer
        assert head.serial == self.serial
        if head.status == rpc.ERROR:
            raise LibvirtError(*unpack_error(payload))
        return payload

    def close(self) -> None:
        """Hang up."""
        self.writer.close()


async def wire(path: Path, *, opened: bool = True) -> Wire:
    """Connect and, with `opened`, open the hypervisor."""
    client = Wire(*await asyncio.open_unix_connection(path))
    if opened:
        await client.call(1, pack_optional("qemu:///system") + pack_uint(0))
    return client


def unpack_error(payload: bytes) -> tuple[int, int, str]:
    """Return code, domain and message of a `remote_error`."""
    reader = Reader(payload)
    return reader.take_int(), reader.take_int(), reader.take_optional() or ""


def records(payload: bytes) -> list[dict[str, Any]]:
    """Decode the answer to a bulk call, types included."""
    reader = Reader(payload)
    found = []
    for _ in range(reader.take_uint()):
        record: dict[str, Any] = {"name": reader.take_string(), "uuid": reader.take_fixed(16).hex()}
        record["id"] = reader.take_int()
        record["params"] = params = []
        for _ in range(reader.take_uint()):
            field, type_ = reader.take_string(), reader.take_int()
            params.append([field, type_, getattr(reader, f"take_{READ[type_]}")()])
        found.append(record)
    return found
