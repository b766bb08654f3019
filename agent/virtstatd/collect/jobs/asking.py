"""
The calls about jobs, one guest after another, on a lane.

virDomainGetJobStats and virDomainGetBlockJobInfo are answered from libvirtd's memory where nothing
runs, and ask the guest's monitor where something does. A read-only connection may make both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import libvirt

from virtstatd.collect.jobs.fields import Block
from virtstatd.hypervisor.held import is_held
from virtstatd.hypervisor.lanes import Session


TURN_SECONDS: Final = 0.25
"""Maximum time of one turn on a lane; other calls wait for it that long at most."""

COMPLETED_AND_KEEP: Final = 3
"""VIR_DOMAIN_JOB_STATS_COMPLETED, and KEEP_COMPLETED: others may want to read it too."""

IN_BYTES: Final = 1
"""VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES."""

UNSUPPORTED: Final = frozenset(
    {
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        libvirt.VIR_ERR_OPERATION_DENIED,
    }
)


@dataclass(frozen=True, slots=True)
class JobQuestion:
    """What a guest is queried for: its job, jobs of these disks, and the job that ended last."""

    uuid: str
    disks: Sequence[str] = ()
    ended: bool = False


@dataclass(slots=True)
class JobAnswer:
    """What runs on a guest; `ended` is the job that ended last, if that was queried."""

    job: Mapping[str, Any] = field(default_factory=dict)
    blocks: dict[str, Block] = field(default_factory=dict)
    ended: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether a job runs that is not one of a disk alone."""
        return self.job.get("type") in (1, 2)


@dataclass(slots=True)
class JobTurn:
    """
    One turn of a lane, filled while it runs, so that answers before a call that hangs are kept.

    `asked` are the guests so far; `refused` is libvirt's reason if the driver does not have a call.
    """

    taken_at: int = 0
    asked: list[str] = field(default_factory=list)
    answers: dict[str, JobAnswer] = field(default_factory=dict)
    calls: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    def kept(self) -> JobTurn:
        """Return what has come so far, which a call that returns late does not change."""
        return JobTurn(self.taken_at, [*self.asked], {**self.answers}, self.calls, {**self.refused})


def ask_jobs(
    session: Session,
    questions: Sequence[JobQuestion],
    turn: JobTurn,
    *,
    careful: bool,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """
    Ask as many guests as fit into a turn, each independent of the others.

    `careful` leaves out a guest on which another client has waited for long.
    """
    turn.taken_at = time.time_ns()
    until = clock() + TURN_SECONDS
    for question in questions:
        turn.asked.append(question.uuid)
        _ask(session, question, turn, careful=careful)
        if clock() >= until:
            return


def _ask(session: Session, question: JobQuestion, turn: JobTurn, *, careful: bool) -> None:
    try:
        handle = session.domain(question.uuid)
    except libvirt.libvirtError:
        if not session.connection.isAlive():
            raise
        return  # it has ended
    if careful and is_held(handle):
        return
    answer = JobAnswer(_call(session, turn, handle.jobStats, 0))
    for disk in question.disks:
        if block := _call(session, turn, handle.blockJobInfo, disk, IN_BYTES):
            answer.blocks[disk] = block
    if question.ended and not answer.runs:
        answer.ended = _call(session, turn, handle.jobStats, COMPLETED_AND_KEEP)
    turn.answers[question.uuid] = answer


def _call(
    session: Session, turn: JobTurn, function: Callable[..., Any], *arguments: object
) -> Mapping[str, Any]:
    """Return libvirt's answer, nothing where it refuses."""
    name = getattr(function, "__name__", "")
    if name in turn.refused:
        return {}
    turn.calls += 1
    try:
        return dict(function(*arguments) or {})
    except libvirt.libvirtError as error:
        if not session.connection.isAlive():
            raise
        if error.get_error_code() in UNSUPPORTED:
            turn.refused[name] = error.get_error_message() or str(error)
        return {}  # it has ended, or migrates to here, of which only the source knows
