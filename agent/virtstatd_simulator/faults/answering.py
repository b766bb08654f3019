"""Answers the calls of clients: looks up procedures, and applies faults."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field

from virtstatd_simulator.answers.calls import Answer, Call, Procedure
from virtstatd_simulator.answers.table import find
from virtstatd_simulator.faults.faults import Fault, Faults, Kind
from virtstatd_simulator.guests.host import Host
from virtstatd_simulator.wire import rpc
from virtstatd_simulator.wire.connection import Connection
from virtstatd_simulator.wire.rpc import DENIED, FROM_DOMAIN, FROM_RPC, RPC, Header, RpcError
from virtstatd_simulator.wire.xdr import Reader, XdrError


@dataclass(slots=True)
class Answering:
    """
    Answers calls from a host's guests, with the armed faults.

    `job_wait_seconds` is how long a call without NOWAIT waits for the job of a guest. `calls`
    counts by procedure.
    """

    host: Host
    job_wait_seconds: float = 30.0
    faults: Faults = field(default_factory=Faults)
    calls: dict[str, int] = field(default_factory=dict)

    def urgent(self, procedure: int) -> bool:
        """Return whether libvirt keeps workers for such calls."""
        known = find(procedure)
        return known is not None and known.urgent

    def answer(
        self, connection: Connection, header: Header, payload: bytes
    ) -> Coroutine[None, None, None] | None:
        """Answer a call at once, or in the coroutine that is returned."""
        try:
            procedure = _checked(header)
            self.calls[procedure.name] = self.calls.get(procedure.name, 0) + 1
            faults = self.faults.strike(header.procedure)
            call = Call(
                header.procedure, Reader(payload), connection, self.host, self.job_wait_seconds
            )
            _permit(call, procedure)
            if faults:
                return _suffer(connection, header, call, procedure, faults)
            answer = procedure.handler(call)
        except (RpcError, XdrError) as error:
            _refuse(connection, header, error)
            return None
        if isinstance(answer, Coroutine):
            return _finish(connection, header, answer)
        connection.reply(header, answer)
        return None


async def _finish(
    connection: Connection, header: Header, answer: Coroutine[None, None, Answer]
) -> None:
    try:
        payload = await answer
    except (RpcError, XdrError) as error:
        _refuse(connection, header, error)
    else:
        connection.reply(header, payload)


async def _suffer(
    connection: Connection,
    header: Header,
    call: Call,
    procedure: Procedure,
    faults: dict[Kind, Fault],
) -> None:
    """Answer under faults."""
    oversize = faults.get("oversize")
    try:
        if slow := faults.get("slow"):
            await asyncio.sleep(slow.seconds)
        _fail(faults.get("fail"), oversize)
        if vanish := faults.get("vanish"):
            call.vanishing = vanish.count if vanish.domains is None else vanish.domains
        answer = procedure.handler(call)
        payload = await answer if isinstance(answer, Coroutine) else answer
    except (RpcError, XdrError) as error:
        _refuse(connection, header, error)
        return
    if oversize:
        connection.announce_too_much(header)
    else:
        cut = faults.get("cut")
        connection.reply(header, payload, cut_at=cut.after_bytes if cut else None)


def _fail(fail: Fault | None, oversize: Fault | None) -> None:
    if fail:
        raise RpcError(fail.code, fail.error_domain, fail.message)
    if oversize and not oversize.frame:
        raise RpcError(RPC, FROM_RPC, "Unable to encode message payload")


def _permit(call: Call, procedure: Procedure) -> None:
    if not procedure.early:
        call.require_open()
    if procedure.writes and call.client.readonly:
        function = "vir" + procedure.name.title().replace("_", "")
        raise RpcError(DENIED, FROM_DOMAIN, f"read only access prevents {function}")


def _checked(header: Header) -> Procedure:
    if (header.program, header.version) != (rpc.REMOTE_PROGRAM, rpc.REMOTE_VERSION):
        text = f"Cannot find program {header.program} version {header.version}"
        raise RpcError(RPC, FROM_RPC, text)
    if header.status != rpc.OK:
        raise RpcError(RPC, FROM_RPC, f"Unexpected message status {header.status}")
    procedure = find(header.procedure)
    if procedure is None:
        raise RpcError(RPC, FROM_RPC, f"unknown procedure: {header.procedure}")
    return procedure


def _refuse(connection: Connection, header: Header, error: RpcError | XdrError) -> None:
    if isinstance(error, XdrError):
        error = RpcError(RPC, FROM_RPC, "Unable to decode message payload")
    connection.reply(header, error.pack(), ok=False)
