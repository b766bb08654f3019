"""Libvirt's events on uvloop while every lane is busy, against a real daemon."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import libvirt
import pytest

from lab.support.hypervisor import Lab
from support.waits import slowness
from virtstatd.hypervisor.lanes import Lane, Lanes, Session
from virtstatd.hypervisor.loop import events_on
from virtstatd.hypervisor.sockets import open_session


LANES = 3
EVENTS = 40
LOST_WAKE_SECONDS = 1.0


@pytest.mark.parametrize("calls", [20_000, pytest.param(100_000, marks=pytest.mark.soak)])
@pytest.mark.timeout(900)
async def test_under_many_calls_no_event_is_late(private_lab: Lab, calls: int):
    """
    Lanes call as fast as they can in debug mode; nothing crashes, and events come in time.

    Debug mode raises on any loop operation that is made on another thread, and the test's own loop
    is uvloop, on which stock libvirtaio does not live for ten seconds.
    """
    loop = asyncio.get_running_loop()
    assert loop.get_debug()
    assert type(loop).__module__ == "uvloop"
    events = events_on(loop)
    delays: list[float] = []
    sent: list[float] = []
    on_threads: set[int] = set()
    arrived = asyncio.Event()

    def happened(*_: object) -> None:
        on_threads.add(threading.get_ident())
        delays.append(time.monotonic() - sent[len(delays)])
        loop.call_soon_threadsafe(arrived.set)

    def register(session: Session) -> None:
        number = libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE
        handle = session.connection.domainEventRegisterAny(None, number, happened, None)
        session.on_close.append(lambda: session.connection.domainEventDeregisterAny(handle))

    listener = Lane("listener", lambda: open_session(private_lab.uri_readonly, 5, 3))
    writer = Lane("writer", lambda: Session(libvirt.open(private_lab.uri)))
    await listener.call(register)
    lanes = Lanes(lambda: open_session(private_lab.uri_readonly, 5, 3), LANES)
    made = 0

    def many(session: Session) -> int:
        for _ in range(500):
            session.connection.getLibVersion()
        return 500

    async def call() -> None:
        nonlocal made
        while made < calls:
            made += await lanes.run(many, 60)

    def change(session: Session) -> None:
        domain = session.connection.lookupByName("guest-0")
        sent.append(time.monotonic())
        kind, flags = libvirt.VIR_DOMAIN_METADATA_TITLE, libvirt.VIR_DOMAIN_AFFECT_LIVE
        domain.setMetadata(kind, f"title {len(sent)}", None, None, flags)

    try:
        async with asyncio.timeout(500), asyncio.TaskGroup() as callers:
            for _ in range(LANES):
                callers.create_task(call())
            for _ in range(EVENTS):
                arrived.clear()
                await writer.call(change)
                async with asyncio.timeout(100):
                    await arrived.wait()
    finally:
        await lanes.close(5)
        for lane in (listener, writer):
            lane.close()
            await lane.ended
        async with asyncio.timeout(100):
            await events.drain()
    delays.sort()
    print(f"{made} calls; events: median {delays[EVENTS // 2]:.3f} s, last {delays[-1]:.3f} s")
    assert events.is_idle()
    assert made >= calls
    assert len(delays) == EVENTS
    assert on_threads == {threading.get_ident()}
    # a loop that is not woken for an event delays it by seconds, and not one but most of them
    assert delays[EVENTS // 2] < LOST_WAKE_SECONDS * slowness()


async def test_connections_leave_nothing_behind(private_lab: Lab):
    """Twenty connections with events, closed in order: no descriptor and no callback is left."""
    events = events_on(asyncio.get_running_loop())

    def register(session: Session) -> None:
        connection = session.connection
        connection.registerCloseCallback(lambda *_: None, None)
        session.on_close.append(connection.unregisterCloseCallback)
        handle = connection.domainEventRegisterAny(None, 0, lambda *_: None, None)
        session.on_close.append(lambda: connection.domainEventDeregisterAny(handle))
        session.domains = {d.UUIDString(): d for d in connection.listAllDomains()}

    counts = []
    for _ in range(20):
        lane = Lane("short", lambda: open_session(private_lab.uri_readonly, 5, 3))
        await lane.call(register)
        lane.close()
        await lane.ended
        async with asyncio.timeout(100):
            await events.drain()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert events.is_idle()
    assert counts[-1] == counts[0]
