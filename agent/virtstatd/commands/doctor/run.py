"""All checks, one after another: each reads, none changes anything."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.collect.kernel.collector import KernelCollector
from virtstatd.collect.kernel.survey import UNSEEN_LOOKS, Second
from virtstatd.collector import Up
from virtstatd.commands.api import AgentApi, ApiError, Unreachable, configured
from virtstatd.commands.doctor.check import Check, named
from virtstatd.commands.doctor.destinations import sink_checks
from virtstatd.commands.doctor.guests import facts, guest_checks, kvm_check, kvm_statistics
from virtstatd.commands.doctor.host import (
    kernel_checks,
    library_check,
    socket_check,
    unit_check,
    user_check,
)
from virtstatd.commands.doctor.told import spared_guests, told_checks
from virtstatd.config.file import DEFAULT_FILE, Config, Loaded, load_text, read_config
from virtstatd.errors import ConfigError, StartError, VirtstatdError
from virtstatd.hypervisor.loop import events_on
from virtstatd.hypervisor.sockets import detected_uri
from virtstatd.model import Batch
from virtstatd.service.collecting import Collecting, collecting
from virtstatd.service.here import found_here, is_virtstatd


Say = Callable[[str], None]


async def all_checks(
    path: Path | None, log: FilteringBoundLogger, progress: Say
) -> AsyncIterator[Check]:
    """Yield every result; `progress` gets what is looked at next."""
    events_on(asyncio.get_running_loop())
    yield user_check()
    yield library_check()
    progress("the configuration")
    check, read = _configuration(path)
    yield check
    config = read.config
    progress("the service")
    yield unit_check()
    if config.places:
        yield await asyncio.to_thread(_listener, path)
    else:
        text = "the agent listens nowhere: no [web] and no sink of type prometheus"
        yield Check("page", "note", text, "add [web] with listen_address to the configuration")
    progress("ports, files and directories of the configuration")
    ours = partial(is_virtstatd, web=config.web)
    here = await found_here(config, ours, outside=True)
    for line in read.located(here.faults):
        yield Check("configuration", "missing", line, "`virtstatd check` lists them all")
    for line in read.located(here.notes):
        yield Check("configuration", "note", line)
    progress("the destinations of the sinks")
    for each in await asyncio.to_thread(lambda: list(sink_checks(config.sinks))):
        yield each
    progress("the kernel")
    for each in kernel_checks():
        yield each
    progress("libvirt and its guests")
    async for each in _left(config, log):
        yield each


def _configuration(path: Path | None) -> tuple[Check, Loaded]:
    try:
        read = read_config(path)
    except ConfigError as error:
        more = f" and {len(error.faults) - 1} more" if len(error.faults) > 1 else ""
        text = f"{error.faults[0]}{more}; the rest is checked with the defaults"
        name = path or DEFAULT_FILE
        check = Check("configuration", "missing", text, f"virtstatd check {name}")
        return check, load_text("", None)
    if read.path is None:
        text = f"there is no {DEFAULT_FILE}: every option has its default, and nothing is sent"
        fix = f"virtstatd demo shows what it does; make install writes {DEFAULT_FILE}"
        return Check("configuration", "note", text, fix), read
    return Check("configuration", "ok", f"{read.name} has no error"), read


def _listener(path: Path | None) -> Check:
    """Return whether a running agent answers at the address of the configuration."""
    api = AgentApi(configured(path or DEFAULT_FILE))
    try:
        host = api.document("host")
    except Unreachable as error:
        return Check("page", "missing", str(error).partition(";")[0], "systemctl start virtstatd")
    except ApiError as error:
        return Check("page", "note", str(error))
    finally:
        api.close()
    return Check("page", "ok", f"virtstatd {host.get('agent_version')} answers at {api.where}")


async def _left(config: Config, log: FilteringBoundLogger) -> AsyncIterator[Check]:
    uri = config.hypervisor.uri or detected_uri()
    if check := socket_check(uri, os.geteuid(), os.getgroups()):
        yield check
    try:
        async with collecting(config, catalogs.shipped(), _ignored, log, up=Up(up=True)) as left:
            async for check in _libvirt(config, left, uri, log):
                yield check
    except StartError as error:
        yield Check("collectors", "missing", str(error), "virtstatd check")


async def _libvirt(
    config: Config, left: Collecting, uri: str, log: FilteringBoundLogger
) -> AsyncIterator[Check]:
    lanes, seconds = left.hypervisor.lanes, config.hypervisor.deadline_seconds
    try:
        found = await lanes.run(facts, max(seconds, 10.0), patient=True)
    except VirtstatdError as error:
        text, _, fix = str(error).partition("; ")
        yield Check("libvirt", "missing", f"{uri}: {text}", fix or "look at libvirt's own log")
        return
    yield Check("libvirt", "ok", f"{found.version} at {uri}, active guests: {len(found.guests)}")
    for check in guest_checks(found):
        yield check
    if found.kvm:
        try:
            counted = await lanes.run(
                lambda session: kvm_statistics(session, found.kvm[0]), seconds, monitor=True
            )
            yield kvm_check(counted=counted)
        except VirtstatdError as error:
            yield Check("KVM", "note", f"one guest could not be queried: {error}")
    left.hypervisor.inventory.restart(found.guests)
    kernel = next((each for each in left.collectors if isinstance(each, KernelCollector)), None)
    if kernel is None:
        why = left.hypervisor.elsewhere or "[local] enabled = false"
        yield Check("guests' own", "note", f"numbers of the kernel are not read: {why}")
    elif found.guests:
        async for check in _kernel(kernel):
            yield check
        counts = await spared_guests(config, found, log)
        for check in told_checks(config.collect["poll"], counts, len(found.guests)):
            yield check


async def _kernel(kernel: KernelCollector) -> AsyncIterator[Check]:
    survey = kernel.survey

    def look() -> Second:
        for _ in range(UNSEEN_LOOKS):
            second = survey.look(whole=True)
        survey.close()
        return second

    second = await asyncio.to_thread(look)
    for what, reason in sorted(second.blind.items()):
        why, fix = survey.bars.explained(what, reason)
        yield Check(what, "missing", why, fix)
    if second.lost:
        text = f"not found in the kernel: {named(device for _, device in second.lost)}"
        yield Check("interfaces", "missing", text, "virsh detach-interface, and attach it again")
    if not second.blind:
        text = "run times, cgroups and interfaces of the guests are read each second"
        yield Check("guests' own", "ok", text)


def _ignored(_: Batch) -> None:
    """Drop a batch: nothing is sent here."""
