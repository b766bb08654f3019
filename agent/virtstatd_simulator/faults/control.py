"""
The control socket: faults and changes at run time, one JSON object per line, one answer each.

`{"do": "hang", "count": 2}` is answered by `{"ok": true, "domains": [...]}`, what cannot be done by
`{"ok": false, "error": "..."}`. A script is a file of the same lines with `"at"`: the second at
which each of them is carried out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

from virtstatd_simulator.answers import table
from virtstatd_simulator.answers.limits import tune
from virtstatd_simulator.faults.faults import Fault, Kind
from virtstatd_simulator.guests.events import Argument, Event
from virtstatd_simulator.guests.fields import parse_field
from virtstatd_simulator.guests.guests import Guest
from virtstatd_simulator.wire.rpc import RpcError
from virtstatd_simulator.wire.server import Server


Json = dict[str, object]
MAX_LINE = 1 << 20
CHURN_TICK_SECONDS = 0.05


class CommandError(ValueError):
    """The command is wrong; the message says how."""


class Control:
    """Carries out commands on a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.host = server.host
        self._churn: asyncio.Task[None] | None = None
        self._verbs: dict[str, Callable[[Json], Json]] = {
            "status": self._status,
            "hang": self._hang,
            "release": self._release,
            "freeze": self._freeze,
            "thaw": self._thaw,
            "churn": self._start_churn,
            "clear": self._clear,
            "stop_time": self._stop_time,
            "start_time": self._start_time,
            "start": self._start,
            "destroy": self._each(self.host.destroy),
            "suspend": self._each(self.host.suspend),
            "resume": self._each(self.host.resume),
            "metadata": self._metadata,
            "tune": self._tune,
            "event": self._event,
            **dict.fromkeys(get_args(Kind), self._arm),
        }

    async def carry_out(self, command: Json) -> Json:
        """Carry out one command; raises `CommandError` for one that cannot be."""
        verb = command.get("do")
        try:
            if verb == "restart":
                await self.server.restart(_number(command, "down_seconds", 0.0))
                return {}
            if not isinstance(verb, str) or verb not in self._verbs:
                known = ", ".join(sorted([*self._verbs, "restart"]))
                raise CommandError(f"do: {verb!r} is none of {known}")
            return self._verbs[verb](command)
        except KeyError as error:
            raise CommandError(f"{error.args[0]!r} is not there") from error
        except (TypeError, ValueError, RpcError) as error:
            raise CommandError(str(error)) from error

    async def follow(self, script: Path) -> None:
        """Carry out a script, each line at its time."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        for command in read_script(script):
            at = _number(command, "at", 0.0)
            await asyncio.sleep(max(0.0, start + at - loop.time()))
            await self.carry_out(command)

    async def close(self) -> None:
        """End the churn."""
        if self._churn is not None:
            self._churn.cancel()
            await asyncio.gather(self._churn, return_exceptions=True)
            self._churn = None

    def _chosen(self, command: Json, *, active: bool = True) -> list[Guest]:
        """Find the guests of a command: those it names, or the first `count` that are active."""
        names = command.get("domains")
        if isinstance(names, list):
            return self.host.named(str(name) for name in names)
        count = int(_number(command, "count", 1))
        found = (g for g in self.host.guests.values() if not active or g.active)
        return [guest for guest, _ in zip(found, range(count), strict=False)]

    def _status(self, _: Json) -> Json:
        server = self.server
        return {
            "domains": len(self.host.guests),
            "active": len(self.host.by_id),
            "hung": [g.name for g in self.host.guests.values() if g.hung is not None],
            "occupied": [g.name for g in self.host.guests.values() if g.job.locked()],
            "clients": len(server.connections),
            "busy": server.workers.busy,
            "waiting": server.workers.waiting,
            "frozen": server.frozen,
            "calls": dict(server.calls),
            "faults": len(server.faults.armed),
        }

    def _hang(self, command: Json) -> Json:
        chosen = self._chosen(command)
        for guest in chosen:
            self.host.hang(guest)
        return {"domains": [guest.name for guest in chosen]}

    def _release(self, command: Json) -> Json:
        every = [guest for guest in self.host.guests.values() if guest.hung is not None]
        chosen = self._chosen(command) if "domains" in command else every
        for guest in chosen:
            self.host.release_monitor(guest)
        return {"domains": [guest.name for guest in chosen]}

    def _freeze(self, _: Json) -> Json:
        self.server.freeze()
        return {}

    def _thaw(self, _: Json) -> Json:
        self.server.thaw()
        return {}

    def _stop_time(self, _: Json) -> Json:
        self.host.stop_time()
        return {}

    def _start_time(self, _: Json) -> Json:
        self.host.start_time()
        return {}

    def _arm(self, command: Json) -> Json:
        options = {key: value for key, value in command.items() if key not in ("do", "at")}
        procedure = options.get("procedure")
        if isinstance(procedure, str):
            options["procedure"] = table.number_of(procedure)
        allowed = {option.name for option in fields(Fault)} - {"kind"}
        for key, value in options.items():
            if key not in allowed:
                raise CommandError(f"{key}: none of {', '.join(sorted(allowed))}")
            if value is not None and isinstance(value, str) != (key == "message"):
                raise CommandError(f"{key}: {value!r}")
        self.server.faults.arm(Fault(kind=str(command["do"]), **options))  # type: ignore[arg-type]
        return {}

    def _clear(self, _: Json) -> Json:
        self.server.faults.clear()
        return {}

    def _each(self, act: Callable[[Guest], None]) -> Callable[[Json], Json]:
        def verb(command: Json) -> Json:
            chosen = self._chosen(command)
            for guest in chosen:
                act(guest)
            return {"domains": [guest.name for guest in chosen]}

        return verb

    def _start(self, command: Json) -> Json:
        if "domains" in command:
            return self._each(lambda guest: void(self.host.start(guest)))(command)
        count = int(_number(command, "count", 1))
        return {"domains": [self.host.start().name for _ in range(count)]}

    def _metadata(self, command: Json) -> Json:
        element = command.get("element")
        for guest in self._chosen(command):
            self.host.set_metadata(
                guest, str(command["uri"]), None if element is None else str(element)
            )
        return {}

    def _tune(self, command: Json) -> Json:
        limits = command.get("limits")
        if not isinstance(limits, dict):
            raise CommandError("limits: must be an object")
        for guest in self._chosen(command):
            tune(self.host, guest, limits)
        return {}

    def _event(self, command: Json) -> Json:
        arguments = command.get("arguments", [])
        if not isinstance(arguments, list):
            raise CommandError("arguments: must be a list")
        for guest in self._chosen(command):
            typed: list[Argument] = [
                [parse_field(*field) for field in argument]
                if isinstance(argument, list)
                else argument
                for argument in arguments
            ]
            event = Event(int(_number(command, "id", 0)), guest.uuid, guest.pack(), typed)
            event.pack(0)  # refuse what does not fit before anybody is told
            self.server.tell(event)
        return {}

    def _start_churn(self, command: Json) -> Json:
        if self._churn is not None:
            self._churn.cancel()
            self._churn = None
        per_second = _number(command, "per_second", 0.0)
        if per_second > 0:
            loop = asyncio.get_running_loop()
            self._churn = loop.create_task(self._keep_churning(per_second), name="simulator churn")
        return {}

    async def _keep_churning(self, per_second: float) -> None:
        """End the oldest guest and start a new one, `per_second` times a second on average."""
        loop = asyncio.get_running_loop()
        start, done = loop.time(), 0
        while True:
            due = int((loop.time() - start) * per_second)
            for _ in range(due - done):
                oldest = next(iter(self.host.by_id.values()), None)
                if oldest is not None:
                    self.host.destroy(oldest)
                self.host.start()
            done = due
            await asyncio.sleep(min(CHURN_TICK_SECONDS, 1.0 / per_second))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client of the control socket, line by line."""
        try:
            while line := await reader.readline():
                answer: Json = {"ok": True}
                try:
                    answer |= await self.carry_out(_parsed(line.decode()))
                except ValueError as error:
                    answer = {"ok": False, "error": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # gone, or a line without an end
            pass
        finally:
            writer.close()


def read_script(path: Path) -> Iterator[Json]:
    """Read a script's commands in the order of their times; raises `CommandError` at a bad line."""
    commands = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            try:
                commands.append(_parsed(line))
            except CommandError as error:
                raise CommandError(f"{path}:{number}: {error}") from error
    return iter(sorted(commands, key=lambda command: _number(command, "at", 0.0)))


def void(_: object) -> None:
    """Forget a result."""


def _parsed(line: str) -> Json:
    try:
        command = json.loads(line)
    except ValueError as error:
        raise CommandError(f"no JSON: {error}") from error
    if not isinstance(command, dict):
        raise CommandError("must be a JSON object")
    return command


def _number(command: Json, key: str, default: float) -> float:
    value = command.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CommandError(f"{key}: must be a number, is {value!r}")
    return float(value)
