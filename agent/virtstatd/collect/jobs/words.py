"""Names for libvirt's numbers of operations and outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from virtstatd.collect.events.meanings import BLOCK_JOBS, OPERATIONS, in_words


BLOCK_ENDS: Final = {0: "completed", 1: "failed", 2: "canceled"}
"""Those of virDomainConnectBlockJobStatus after which there is no job."""

JOB_ENDS: Final = {3: "completed", 4: "failed", 5: "canceled"}
"""The same of virDomainJobType."""

OUTCOMES: Final = ("completed", "failed", "canceled")
UNKNOWN: Final = "unknown"
"""The outcome of a job that the next one followed before a query."""


def operation_of(job: Mapping[str, Any]) -> str:
    """Return what a job does; a number that is not known stays a number."""
    return in_words(job.get("operation", 0), OPERATIONS)


def block_operation(kind: object) -> str:
    """Return what a job on a disk does."""
    return f"block_{in_words(kind, BLOCK_JOBS)}"


def ended_how(job: Mapping[str, Any]) -> str:
    """
    Return how a job ended that libvirt reports as completed.

    A backup that was aborted has success = 1 and an error message; a save has neither.
    """
    kind = job.get("type")
    if kind in (*OUTCOMES, UNKNOWN):  # of a disk, or not known
        return str(kind)
    if kind in (4, 5):
        return JOB_ENDS[kind]
    message = str(job.get("errmsg") or "")
    if "cancel" in message.casefold():
        return "canceled"
    return "failed" if message or job.get("success", 1) == 0 else "completed"
