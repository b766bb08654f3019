"""
The control socket: faults and changes at run time, one JSON object per line, one answer each.

`{"do": "hang", "count": 2}` is answered by `{"ok": true, "domains": [...]}`, a command that cannot
be executed by `{"ok": false, "error": "..."}`. The verbs are in `verbs.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

from virtstatd_simulator.answers.table import NUMBERS, STATS
from virtstatd_simulator.faults.answering import Answering
from virtstatd_simulator.faults.faults import Fault, Kind
from virtstatd_simulator.faults.verbs import CommandError, check_command, shown
from virtstatd_simulator.guests.events import WIRE, Event, parse_arguments
from virtstatd_simulator.guests.fields import EVERY_GROUP, GROUP_NAMES
from virtstatd_simulator.guests.guests import Guest
from virtstatd_simulator.guests.limits import check_limit, tune
from virtstatd_simulator.guests.refusals import Refusal
from virtstatd_simulator.wire.server import RestartError, Server


Json = dict[str, object]
MAX_LINE = 1 << 20
CHURN_TICK_SECONDS = 0.05


class Control:
    """Executes commands on a server, its host and the faults of its answers."""

    def __init__(self, server: Server, answering: Answering) -> None:
        self._server = server
        self._answering = answering
        self._host = answering.host
        self._churn: asyncio.Task[None] | None = None
        self._holds: dict[Guest, asyncio.TimerHandle] = {}
        self._clients: set[asyncio.Task[None]] = set()
        host = self._host
        self._verbs: dict[str, Callable[..., Json | None]] = {
            "status": self._status,
            "hang": self._each(host.hang),
            "lag": self._lag,
            "release": self._release,
            "refuse": self._refuse,
            "spoil": self._spoil,
            "start": self._start,
            "destroy": self._each(host.destroy),
            "suspend": self._each(host.suspend),
            "resume": self._each(host.resume),
            "churn": self._start_churn,
            "metadata": self._metadata,
            "tune": self._tune,
            "event": self._event,
            "stop_time": host.stop_time,
            "start_time": host.start_time,
            "freeze": server.freeze,
            "thaw": server.thaw,
            "clear": self._clear,
        }

    async def carry_out(self, command: Json) -> Json:
        """Execute one command; raises `CommandError` without having changed anything."""
        verb, arguments = check_command(command)
        if verb == "hold":
            return await self._hold(**arguments)  # type: ignore[arg-type]  # checked
        if verb == "restart":
            try:
                await self._server.restart(**arguments)  # type: ignore[arg-type]  # checked
            except RestartError as error:
                raise CommandError(str(error)) from error
            self._let_go(list(self._holds))
        elif verb in get_args(Kind):
            self._arm(verb, arguments)
        else:
            return self._verbs[verb](**arguments) or {}
        return {}

    async def close(self) -> None:
        """Disconnect clients of the control socket, and end the churn and what holds jobs."""
        self._let_go(list(self._holds))
        tasks = [*self._clients, *([self._churn] if self._churn else [])]
        self._churn = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _named(self, names: Sequence[str]) -> list[Guest]:
        found = [self._host.by_name.get(name) for name in dict.fromkeys(names)]
        guests = [guest for guest in found if guest is not None]
        if len(guests) < len(found):
            missing = next(name for name in names if name not in self._host.by_name)
            raise CommandError(f"domains names {shown(missing)}, which no guest is called")
        return guests

    def _chosen(self, domains: list[str] | None, count: int) -> list[Guest]:
        """Find the guests of a command: those it names, or the first `count` that are active."""
        if domains is not None:
            return self._named(domains)
        found = (guest for guest in self._host.guests.values() if guest.active)
        return [guest for guest, _ in zip(found, range(count), strict=False)]

    def _each(self, act: Callable[[Guest], None]) -> Callable[[list[str] | None, int], Json]:
        """Create a verb that changes active guests."""

        def verb(domains: list[str] | None, count: int) -> Json:
            chosen = self._chosen(domains, count)
            _require(chosen, active=True)
            for guest in chosen:
                act(guest)
            return _names(chosen)

        return verb

    def _status(self) -> Json:
        server, host = self._server, self._host
        return {
            "domains": len(host.guests),
            "active": len(host.by_id),
            "hung": [g.name for g in host.guests.values() if g.hung is not None],
            "occupied": [g.name for g in host.guests.values() if g.job.locked()],
            "clients": len(server.connections),
            "busy": server.workers.busy,
            "waiting": server.workers.waiting,
            "frozen": server.frozen,
            "calls": dict(self._answering.calls),
            "faults": len(self._answering.faults.armed)
            + sum(refusal.times != 0 for refusal in host.refusals),
        }

    def _release(self, domains: list[str] | None) -> Json:
        every = self._host.guests.values() if domains is None else self._named(domains)
        chosen = [g for g in every if g.hung is not None or g.lag or g in self._holds]
        for guest in chosen:
            self._host.release_monitor(guest)
        self._let_go([guest for guest in chosen if guest in self._holds])
        return _names(chosen)

    def _lag(self, domains: list[str] | None, count: int, seconds: float) -> Json:
        chosen = self._chosen(domains, count)
        _require(chosen, active=True)
        for guest in chosen:
            guest.lag = seconds
        return _names(chosen)

    async def _hold(self, domains: list[str] | None, count: int, seconds: float) -> Json:
        chosen = self._chosen(domains, count)
        _require(chosen, active=True)
        for guest in chosen:
            if guest.job.locked():
                raise CommandError(f"domains names {shown(guest.name)}, whose job is taken")
        loop = asyncio.get_running_loop()
        for guest in chosen:
            await guest.job.acquire()
            guest.job_since = self._host.clock()
            self._holds[guest] = loop.call_later(seconds, self._let_go, [guest])
        return _names(chosen)

    def _let_go(self, guests: Sequence[Guest]) -> None:
        for guest in guests:
            self._holds.pop(guest).cancel()
            guest.job.release()

    def _refuse(
        self,
        domains: list[str] | None,
        count: int,
        groups: list[str] | None,
        times: int | None,
        too_large: bool,  # noqa: FBT001 - an argument of the protocol
    ) -> Json:
        chosen = self._chosen(domains, count)
        uuids = frozenset(guest.uuid for guest in chosen)
        self._host.refusals.append(Refusal(uuids, _bits(groups), times, too_large))
        return _names(chosen)

    def _spoil(
        self,
        domains: list[str] | None,
        count: int,
        key: str | None,
        groups: list[str] | None,
        value: int | None,
    ) -> Json:
        chosen = self._chosen(domains, count)
        _require(chosen, active=True)
        values = [_false_values(guest, key, _bits(groups), value) for guest in chosen]
        for guest, false in zip(chosen, values, strict=True):
            guest.spoil(false)
        return _names(chosen)

    def _clear(self) -> None:
        self._answering.faults.clear()
        self._host.heal()

    def _start(self, domains: list[str] | None, count: int) -> Json:
        if domains is None:
            return _names([self._host.start() for _ in range(count)])
        chosen = self._named(domains)
        _require(chosen, active=False)
        return _names([self._host.start(guest) for guest in chosen])

    def _metadata(
        self, domains: list[str] | None, count: int, uri: str, element: str | None
    ) -> Json:
        chosen = self._chosen(domains, count)
        for guest in chosen:
            self._host.set_metadata(guest, uri, element)
        return _names(chosen)

    def _tune(self, domains: list[str] | None, count: int, limits: dict[str, int | str]) -> Json:
        chosen = self._chosen(domains, count)
        for name, value in limits.items():
            try:
                check_limit(name, value)
            except ValueError as error:
                raise CommandError(f"limits {error}") from error
        for guest in chosen:
            tune(self._host, guest, limits)
        return _names(chosen)

    def _event(
        self,
        domains: list[str] | None,
        count: int,
        id: int,  # noqa: A002 - its name in the protocol
        arguments: Sequence[object],
        times: int,
    ) -> Json:
        if id not in WIRE:
            raise CommandError(f"id is {id}, an event that the simulator does not have")
        chosen = self._chosen(domains, count)
        try:
            parsed = parse_arguments(id, arguments)
        except ValueError as error:
            raise CommandError(f"arguments {error}") from error
        for guest in chosen:
            event = Event(id, guest.uuid, guest.pack(), parsed)
            for _ in range(times):
                self._host.emit(event)
        return _names(chosen)

    def _arm(self, kind: str, options: dict[str, Any]) -> None:
        if kind == "vanish":
            options["procedure"] = STATS
            if options["domains"] is not None:
                named = self._named(options["domains"])
                options["domains"] = frozenset(guest.uuid for guest in named)
        elif options["procedure"] is not None:
            options["procedure"] = NUMBERS[options["procedure"].upper()]
        self._answering.faults.arm(Fault(kind=kind, **options))  # type: ignore[arg-type]  # a Kind

    def _start_churn(self, per_second: float) -> None:
        if self._churn is not None:
            self._churn.cancel()
            self._churn = None
        if per_second > 0:
            loop = asyncio.get_running_loop()
            self._churn = loop.create_task(self._keep_churning(per_second), name="simulator churn")

    async def _keep_churning(self, per_second: float) -> None:
        """End the oldest guest and start a new one, `per_second` times a second on average."""
        loop = asyncio.get_running_loop()
        start, done = loop.time(), 0
        while True:
            due = int((loop.time() - start) * per_second)
            for _ in range(due - done):
                oldest = next(iter(self._host.by_id.values()), None)
                if oldest is not None:
                    self._host.destroy(oldest)
                self._host.start()
            done = due
            await asyncio.sleep(min(CHURN_TICK_SECONDS, 1.0 / per_second))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client of the control socket, line by line."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._clients.add(task)
        try:
            more = True
            while more:
                more = await self._serve_line(reader, writer)
        except ConnectionError:  # the client has gone
            pass
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve_line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one line; return whether more can come."""
        answer: Json
        more = True
        try:
            line = await reader.readline()
        except ValueError:  # what follows belongs to the same line
            answer = _refused(f"the line is longer than {MAX_LINE} bytes")
            more = False
        else:
            if not line:
                return False
            try:
                answer = {"ok": True, **await self.carry_out(_parsed(line))}
            except CommandError as error:
                answer = _refused(str(error))
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        return more


def _refused(reason: str) -> Json:
    return {"ok": False, "error": reason}


def _names(guests: list[Guest]) -> Json:
    return {"domains": [guest.name for guest in guests]}


def _bits(groups: list[str] | None) -> int:
    """Return groups as libvirt's flags, all of them when None."""
    return EVERY_GROUP if groups is None else sum(GROUP_NAMES[name] for name in set(groups))


def _false_values(
    guest: Guest, key: str | None, groups: int, value: int | None
) -> dict[str, int | None]:
    """Return a false value for a field of a guest, or for a number of each of some groups."""
    every = guest.flavor.fields(EVERY_GROUP, active=True, job=True, backing=False)
    if key is not None:
        if all(field.name != key for field in every):
            raise CommandError(f"key is {shown(key)}, which {guest.name} does not have")
        return {key: value}
    # a number that moves is not the count of other numbers
    numbers = sorted((f for f in every if f.text is None and f.slot is None), key=lambda f: f.moves)
    chosen = {field.group: field.name for field in numbers if field.group & groups}
    return dict.fromkeys(chosen.values(), value)


def _require(guests: list[Guest], *, active: bool) -> None:
    """Refuse the command for a guest that is in the wrong state."""
    for guest in guests:
        if guest.active != active:
            state = "running already" if guest.active else "shut off"
            raise CommandError(f"domains names {shown(guest.name)}, which is {state}")


def _parsed(line: bytes) -> Json:
    try:
        command = json.loads(line.decode())
        json.dumps(command, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise CommandError(f"the line is not JSON from character {error.pos + 1} on") from error
    except UnicodeError as error:
        raise CommandError("the line has characters that are not Unicode") from error
    except (ValueError, RecursionError) as error:
        raise CommandError("the line has too long a number or too deep a list") from error
    if not isinstance(command, dict):
        raise CommandError(f"a command must be an object, not {shown(command)}")
    return command
