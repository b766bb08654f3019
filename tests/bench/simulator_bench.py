"""
How fast one simulator process answers for 10,000 guests of a hundred statistics each.

Run with `PYTHONPATH=agent python tests/bench/simulator_bench.py [JSON]`. The guests are asked in
slices; once by a client that only reads, which is the simulator's own time, and once by
libvirt-python, whose decoding comes on top. 1.5 seconds are the most it may take.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import libvirt

from virtstatd_simulator.answers.table import STATS
from virtstatd_simulator.wire import rpc
from virtstatd_simulator.wire.rpc import Header
from virtstatd_simulator.wire.xdr import (
    Reader,
    pack_array,
    pack_int,
    pack_optional,
    pack_string,
    pack_uint,
)


CONNECTIONS = 2

Piece = TypeVar("Piece")
Worker = TypeVar("Worker")


@contextmanager
def simulator(folder: Path, *arguments: str) -> Iterator[tuple[Path, int]]:
    """Run a simulator process; gives its socket and its pid."""
    path = folder / "simulator"
    command = [sys.executable, "-m", "virtstatd_simulator", "--socket", str(path), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            json.loads(process.stdout.readline())
            yield path, process.pid
        finally:
            process.terminate()


class Client:
    """Speaks just enough of the protocol, and decodes nothing."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.call(1, pack_optional("qemu:///system") + pack_uint(0))

    def call(self, procedure: int, arguments: bytes) -> bytes:
        """Make a call and give the payload of the answer."""
        header = Header(rpc.REMOTE_PROGRAM, 1, procedure, rpc.CALL, 1, rpc.OK)
        self.socket.sendall(rpc.frame(header, len(arguments)) + arguments)
        size = int.from_bytes(self._read(4), "big")
        return bytes(self._read(size - 4)[24:])

    def _read(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            view = view[self.socket.recv_into(view) :]
        return buffer


def cpu_seconds(pid: int) -> float:
    """Give the CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def domains(client: Client) -> list[bytes]:
    """List the guests, packed."""
    reader = Reader(bytes(client.call(273, pack_uint(1) + pack_uint(1))))
    count = reader.take_uint()
    found = []
    for _ in range(count):
        name, uuid, number = reader.take_string(), reader.take_fixed(16), reader.take_int()
        found.append(pack_string(name) + uuid + pack_int(number))
    return found


def in_parallel(
    work: Iterable[Piece], workers: Iterable[Worker], act: Callable[[Worker, Piece], None]
) -> float:
    """Let each worker take the next piece of work until none is left; gives the seconds."""
    pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
    for piece in work:
        pieces.put(piece)

    def run(worker: Worker) -> None:
        while True:
            try:
                piece = pieces.get_nowait()
            except queue.Empty:
                return
            act(worker, piece)

    start = time.perf_counter()
    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print a table, and write the same as JSON where wanted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("json", type=Path, nargs="?")
    parser.add_argument("--domains", type=int, default=10_000)
    parser.add_argument("--profile", default="hundred")
    parser.add_argument("--slice", type=int, default=500)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        simulator(
            Path(folder), "--domains", str(options.domains), "--profile", options.profile
        ) as (path, pid),
    ):
        clients = [Client(path) for _ in range(CONNECTIONS)]
        every = domains(clients[0])
        cuts = range(0, len(every), options.slice)
        calls = [pack_array(every[at : at + options.slice]) + pack_uint(0) * 2 for at in cuts]
        got: list[int] = []
        result: dict[str, object] = {"domains": len(every)}
        for name in ("first", "again"):
            before = cpu_seconds(pid)
            got.clear()
            wall = in_parallel(calls, clients, lambda c, a: got.append(len(c.call(STATS, a))))
            result[f"{name}_seconds"] = round(wall, 3)
            result[f"{name}_cpu_seconds"] = round(cpu_seconds(pid) - before, 3)
        result["megabytes"] = round(sum(got) / 1e6, 1)

        uri = f"qemu+unix:///system?socket={path}"
        connections = [libvirt.openReadOnly(uri) for _ in range(CONNECTIONS)]
        guests = connections[0].listAllDomains()
        slices = [guests[at : at + options.slice] for at in cuts]
        counts: list[int] = []

        def ask(connection: libvirt.virConnect, part: list[libvirt.virDomain]) -> None:
            records = connection.domainListGetStats(part, 0, 0)
            counts.append(sum(len(params) for _, params in records))

        result["libvirt_python_seconds"] = round(in_parallel(slices, connections, ask), 3)
        result["statistics"] = sum(counts)
    for name, value in result.items():
        sys.stdout.write(f"{name:<24}{value:>12}\n")
    if options.json is not None:
        options.json.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
