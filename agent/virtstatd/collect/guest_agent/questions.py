"""The questions to an agent, each in a call of its own: a refusal costs its own numbers alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import libvirt
import libvirt_qemu

from virtstatd.collect.guest_agent import answers, cpus
from virtstatd.collect.guest_agent.answers import AgentAnswer, Said
from virtstatd.hypervisor.lanes import Session


OFTEN: Final = "guest"
FILESYSTEMS: Final = "guest_filesystem"
FACTS: Final = "guest_facts"
CPU: Final = "guest_cpu"
GROUPS: Final = frozenset({OFTEN, FILESYSTEMS, FACTS, CPU})

DEFAULT_LIMIT: Final = -1

SILENT: Final = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_OPERATION_INVALID,  # it is paused, or the agent has gone
        libvirt.VIR_ERR_OPERATION_TIMEOUT,
        libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
        libvirt.VIR_ERR_AGENT_UNSYNCED,
        112,  # VIR_ERR_AGENT_COMMAND_TIMEOUT, since libvirt 11.2
    }
)
"""The errors that are about the guest, whatever the question."""

FROM_AGENT: Final = 1
INTERFACES_SINCE: Final = 7_010_000


@dataclass(frozen=True, slots=True)
class Question:
    """One call: the group of its numbers, libvirt's oldest version that has it, and its answer."""

    name: str
    group: str
    since: int
    ask: Callable[[Any, int], AgentAnswer]
    said: Callable[[AgentAnswer, int], Said]

    @property
    def often(self) -> bool:
        """Whether it is due at the shorter interval."""
        return self.group in (OFTEN, CPU)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Libvirt's reason for no answer, and whether other questions would get none either."""

    reason: str
    silent: bool


def answered(
    uuid: str, question: Question, version: int, session: Session
) -> AgentAnswer | Unanswered:
    """Ask a guest; runs on the thread."""
    try:
        return question.ask(session.domain(uuid), version)
    except libvirt.libvirtError as error:
        if not session.connection.isAlive():
            raise
        reason = error.get_error_message() or "the cause is unknown"
        return Unanswered(reason, silent=error.get_error_code() in SILENT)


def _info(bit: int) -> Callable[[libvirt.virDomain, int], AgentAnswer]:
    """Return the question for one kind of VIR_DOMAIN_GUEST_INFO_*, by its number."""

    def ask(handle: libvirt.virDomain, _: int) -> AgentAnswer:
        answer: AgentAnswer = handle.guestInfo(bit)
        return answer

    return ask


def _interfaces(handle: libvirt.virDomain, version: int) -> AgentAnswer:
    """Ask as this libvirt can; an older one has another call for it."""
    if version >= INTERFACES_SINCE:
        return _info(64)(handle, version)
    return flat_interfaces(handle.interfaceAddresses(FROM_AGENT))


def flat_interfaces(of: dict[str, dict[str, Any]]) -> AgentAnswer:
    """Return the answer of virDomainInterfaceAddresses as virDomainGetGuestInfo would say it."""
    flat: dict[str, Any] = {}
    for number, (name, each) in enumerate(of.items()):
        flat |= {f"if.{number}.name": name, f"if.{number}.hwaddr": each.get("hwaddr")}
        for at, address in enumerate(each.get("addrs") or ()):
            kind = {0: "ipv4", 1: "ipv6"}.get(address["type"], str(address["type"]))
            flat[f"if.{number}.addr.{at}.type"] = kind
            flat[f"if.{number}.addr.{at}.addr"] = address["addr"]
            flat[f"if.{number}.addr.{at}.prefix"] = address["prefix"]
    return flat


def _cpu(handle: libvirt.virDomain, _: int) -> AgentAnswer:
    """Send the command itself; libvirt ends it after 5 s, its default for such commands."""
    command = json.dumps({"execute": "guest-get-cpustats"})
    text = libvirt_qemu.qemuAgentCommand(handle, command, DEFAULT_LIMIT, 0)
    return {"cpus": json.loads(text)["return"]}


def _vcpus(handle: libvirt.virDomain, _: int) -> AgentAnswer:
    answer: AgentAnswer = handle.guestVcpus()
    return answer


CPU_QUESTION: Final = Question("cpu", CPU, 0, _cpu, cpus.said_cpu)

QUESTIONS: Final = (
    Question("filesystem", FILESYSTEMS, 5_007_000, _info(16), answers.said_filesystems),
    Question("load", OFTEN, 11_002_000, _info(128), answers.said_load),
    Question("users", OFTEN, 5_007_000, _info(1), answers.said_users),
    Question("os", FACTS, 5_007_000, _info(2), answers.said_system),
    Question("hostname", FACTS, 5_007_000, _info(8), answers.said_hostname),
    Question("timezone", FACTS, 5_007_000, _info(4), answers.said_timezone),
    Question("interfaces", FACTS, 1_002_014, _interfaces, answers.said_interfaces),
    Question("disks", FACTS, 7_000_000, _info(32), answers.said_disks),
    Question("drivers", FACTS, 12_007_000, _info(256), answers.said_drivers),
    Question("vcpus", FACTS, 2_000_000, _vcpus, cpus.said_vcpus),
)
"""In the order of the calls to a guest."""
