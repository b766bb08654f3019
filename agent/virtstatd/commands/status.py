"""`virtstatd status`: about ten lines for a person, and an exit code for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click

from virtstatd.commands.api import AgentApi, ApiError, Endpoint, Unreachable
from virtstatd.commands.cells import neutral
from virtstatd.commands.options import agent_options
from virtstatd.commands.units import any_text, bytes_text, count_text, ratio_text, seconds_text


WELL, HURTS, CRITICAL = 0, 1, 2
"""Exit codes; an agent that cannot be reached counts as critical."""

DOCUMENTS: Final = ("host", "findings", "agent")
FINDINGS_MAX: Final = 4
SINKS_MAX: Final = 6
MARKS: Final = {"critical": "!!", "warning": " !"}

StatusDocuments = Mapping[str, Mapping[str, Any]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@agent_options
@click.option("--json", "as_json", is_flag=True, help="Print the documents, with the exit code.")
def status(endpoint: Endpoint, *, as_json: bool, **_: object) -> None:
    """
    Report in ten lines what runs, what hurts and what to do.

    Exits with 0 if all is well, 1 if something hurts, 2 if something critical does, libvirt is down
    or no agent answers.
    """
    api = AgentApi(endpoint)
    try:
        documents = {each: api.document(each) for each in DOCUMENTS}
    except ApiError as error:
        if as_json:
            click.echo(json.dumps({"code": CRITICAL, "error": str(error)}))
        else:
            click.echo("\n".join(unreachable_lines(error)))
        sys.exit(CRITICAL)
    finally:
        api.close()
    code = code_of(documents)
    if as_json:
        click.echo(json.dumps({"code": code, **documents}))
    else:
        ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
        for line in status_lines(documents, api.where, ascii_only=ascii_only):
            click.echo(line)
    sys.exit(code)


def code_of(documents: StatusDocuments) -> int:
    """Return the exit code."""
    found = documents["findings"].get("findings") or []
    libvirt = documents["host"].get("libvirt") or {}
    if not libvirt.get("up") or any(each.get("severity") == "critical" for each in found):
        return CRITICAL
    return HURTS if found else WELL


def unreachable_lines(error: ApiError) -> Iterator[str]:
    """Yield what to say where no agent answers."""
    yield neutral(error)
    if isinstance(error, Unreachable):
        yield "virtstatd doctor  says what is missing here"
        yield "virtstatd top     shows the guests without an agent"


def status_lines(documents: StatusDocuments, where: str, *, ascii_only: bool = False) -> list[str]:
    """Return the lines; nothing in them but what this command wrote is interpreted."""
    host, agent = documents["host"], documents["agent"]
    found = list(documents["findings"].get("findings") or [])
    lines = [
        f"{host.get('host')}: {_verdict(documents, found)}",
        f"  agent    {_agent(host, agent, where)}",
        f"  libvirt  {_libvirt(host)}",
        f"  guests   {_guests(host, agent)}",
        f"  host     {_host(host)}",
        *_findings(found),
        *_sinks(agent),
        f"  do       {_advice(host, found)}",
    ]
    return [neutral(line, ascii_only=ascii_only) for line in lines]


def _verdict(documents: StatusDocuments, found: list[Any]) -> str:
    critical = sum(each.get("severity") == "critical" for each in found)
    parts = [f"{critical} critical"] if critical else []
    if warnings := len(found) - critical:
        parts.append(f"{warnings} warning" + "s" * (warnings != 1))
    if not (documents["host"].get("libvirt") or {}).get("up"):
        parts.insert(0, "libvirt is down")
    return ", ".join(parts) or "all is well"


def _agent(host: Mapping[str, Any], agent: Mapping[str, Any], where: str) -> str:
    cost = agent.get("cost") or {}
    parts = [f"virtstatd {host.get('agent_version')} at {where}"]
    if (since := _ago(agent.get("since"), agent.get("time"))) is not None:
        parts.append(f"runs for {seconds_text(since)}")
    if cost.get("cpu_seconds_per_second") is not None:
        parts.append(f"costs {seconds_text(cost['cpu_seconds_per_second'])} of CPU a second")
    return ", ".join(parts)


def _ago(text: object, now: object) -> float | None:
    try:
        then, at = (datetime.fromisoformat(str(each)) for each in (text, now))
    except ValueError:
        return None
    return max((at.astimezone(UTC) - then.astimezone(UTC)).total_seconds(), 0.0)


def _libvirt(host: Mapping[str, Any]) -> str:
    libvirt = host.get("libvirt") or {}
    version = f"{libvirt['version']} " if libvirt.get("version") else ""
    state = "up" if libvirt.get("up") else "DOWN"
    age = seconds_text(host.get("age_seconds"))
    return f"{version}{state}, {host.get('uri')}, newest number {age} old"


def _guests(host: Mapping[str, Any], agent: Mapping[str, Any]) -> str:
    guests = host.get("guests") or {}
    parts = [f"{any_text(guests.get('running'))} running"]
    parts += [f"{guests[each]} {each}" for each in ("paused", "stopped") if guests.get(each)]
    if guests.get("stuck"):
        parts.append(f"{guests['stuck']} STUCK")
    left_out = agent.get("left_out") or {}
    if left_out.get("guests"):
        parts.append(f"{left_out['guests']} left out by the filter")
    if left_out.get("series"):
        groups = ", ".join(left_out.get("groups") or ())
        parts.append(f"{left_out['series']} series too many ({groups})")
    return ", ".join(parts)


def _host(host: Mapping[str, Any]) -> str:
    cpu, memory = host.get("cpu") or {}, host.get("memory") or {}
    parts = []
    if cpu.get("used_ratio") is not None:
        parts.append(f"CPU {ratio_text(cpu['used_ratio'])} of {cpu.get('count')}")
    if cpu.get("steal_ratio") is not None:
        parts.append(f"steal {ratio_text(cpu['steal_ratio'])}")
    if memory.get("available_bytes") is not None:
        free, total = bytes_text(memory["available_bytes"]), bytes_text(memory.get("total_bytes"))
        parts.append(f"memory {free} free of {total}")
    return ", ".join(parts) or "not read: the guests run elsewhere, or [local] is off"


def _findings(found: list[Any]) -> Iterator[str]:
    head = "hurts  "
    for each in _each_first(found)[:FINDINGS_MAX]:
        yield f"  {head}  {MARKS.get(str(each.get('severity')), '  ')} {each.get('text')}"
        head = "       "
    if not found:
        yield "  hurts    nothing"
    elif len(found) > FINDINGS_MAX:
        yield f"              and {len(found) - FINDINGS_MAX} more: virtstatd top"


def _each_first(found: list[Any]) -> list[Any]:
    """Return one finding of each guest first, so that one with many hides no other."""
    first: dict[str, Any] = {}
    for each in found:
        first.setdefault((each.get("guest") or {}).get("uuid") or str(each.get("id")), each)
    ids = {id(each) for each in first.values()}
    return [*first.values(), *(each for each in found if id(each) not in ids)]


def _sinks(agent: Mapping[str, Any]) -> Iterator[str]:
    sinks = list(agent.get("sinks") or [])
    head = "sent to"
    for each in sinks[:SINKS_MAX]:
        yield f"  {head}  {each.get('name')}: {', '.join(_sink(each))}"
        head = "       "
    if not sinks:
        yield "  sent to  nowhere: no sink is configured"
    elif len(sinks) > SINKS_MAX:
        yield f"           and {len(sinks) - SINKS_MAX} more: virtstatd top, key 3"


def _sink(sink: Mapping[str, Any]) -> Iterator[str]:
    yield "ok" if sink.get("state") == "ok" else str(sink.get("state")).upper()
    if sink.get("lag_seconds") is not None:
        yield f"{seconds_text(sink['lag_seconds'])} behind"
    if sink.get("waiting_samples"):
        yield f"samples waiting: {count_text(sink['waiting_samples'])}"
    if lost := (sink.get("lost_samples") or 0) + (sink.get("dropped_samples") or 0):
        yield f"samples LOST: {count_text(lost)}"


def _advice(host: Mapping[str, Any], found: list[Any]) -> str:
    if not (host.get("libvirt") or {}).get("up"):
        return "start libvirtd or virtqemud; `virtstatd doctor` says more"
    advice = next((each["advice"] for each in found if each.get("advice")), "")
    if advice:
        return str(advice)
    return "look at `virtstatd top`" if found else "nothing"
