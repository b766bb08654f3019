"""What libvirt's events say, in words; a number that is not known stays a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from virtstatd.hypervisor.arrivals import EVENTS


TEXT_MAX: Final = 200
"""Characters of a path or an alias that are kept."""

OTHER: Final = "other"
"""An I/O error for which libvirt gives no reason, and details beyond the most."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """
    An event in words.

    `detail` is one of few, as `stopped_crashed`; `device` is libvirt's alias or the target of a
    disk. `more` is what differs from event to event, as a path.
    """

    detail: str = ""
    device: str = ""
    more: str = ""


LIFECYCLE: Final[Mapping[int, tuple[str, tuple[str, ...]]]] = {
    0: ("defined", ("added", "updated", "renamed", "from_snapshot")),
    1: ("undefined", ("removed", "renamed")),
    2: ("started", ("booted", "migrated", "restored", "from_snapshot", "wakeup")),
    3: (
        "suspended",
        (
            "paused",
            "migrated",
            "ioerror",
            "watchdog",
            "restored",
            "from_snapshot",
            "api_error",
            "postcopy",
            "postcopy_failed",
        ),
    ),
    4: ("resumed", ("unpaused", "migrated", "from_snapshot", "postcopy", "postcopy_failed")),
    5: (
        "stopped",
        (
            "shutdown",
            "destroyed",
            "crashed",
            "migrated",
            "saved",
            "failed",
            "from_snapshot",
            "recreated",
        ),
    ),
    6: ("shutdown", ("finished", "guest", "host")),
    7: ("pmsuspended", ("memory", "disk")),
    8: ("crashed", ("panicked", "crashloaded")),
}
"""virDomainEventType, and the details of each."""

WATCHDOG: Final = ("none", "pause", "reset", "poweroff", "shutdown", "debug", "injectnmi")
IO_ACTIONS: Final = ("none", "pause", "report")
DISK_CHANGES: Final = ("missing_on_start", "drop_missing_on_start")
TRAY: Final = ("open", "close")
GRAPHICS: Final = ("connect", "initialize", "disconnect")
AGENT_STATES: Final = ("", "connected", "disconnected")
METADATA: Final = ("description", "title", "element")
RECIPIENTS: Final = ("hypervisor", "guest")
FAILURES: Final = ("ignore", "inject", "fatal", "reset")
BLOCK_JOBS: Final = ("unknown", "pull", "copy", "commit", "active_commit", "backup")
BLOCK_JOB_ENDS: Final = ("completed", "failed", "canceled", "ready")
OPERATIONS: Final = (
    "unknown",
    "start",
    "save",
    "restore",
    "migration_in",
    "migration_out",
    "snapshot",
    "snapshot_revert",
    "dump",
    "backup",
    "snapshot_delete",
)
"""virDomainJobOperation."""


def in_words(number: object, names: tuple[str, ...]) -> str:
    """Return the name of libvirt's number, or the number."""
    if isinstance(number, int) and 0 <= number < len(names) and names[number]:
        return names[number]
    return harmless(number)


def harmless(value: object) -> str:
    """Return a text that guests or their owners may have chosen, shortened, without controls."""
    text = "" if value is None else str(value)[:TEXT_MAX]
    return "".join(each if each.isprintable() else "�" for each in text)


def _lifecycle(event: object, detail: object, *_: object) -> Meaning:
    name, details = LIFECYCLE.get(event, ("", ())) if isinstance(event, int) else ("", ())
    return Meaning(f"{name or harmless(event)}_{in_words(detail, details)}")


def _io_error(path: object, alias: object, action: object, reason: object = "") -> Meaning:
    more = f"{in_words(action, IO_ACTIONS)} {harmless(path)}"
    return Meaning(harmless(reason) or OTHER, harmless(alias), more)


def _disk_change(old: object, new: object, alias: object, reason: object) -> Meaning:
    more = f"{harmless(old)} -> {harmless(new)}"
    return Meaning(in_words(reason, DISK_CHANGES), harmless(alias), more)


def _block_job(disk: object, kind: object, status: object) -> Meaning:
    return Meaning(
        f"{in_words(kind, BLOCK_JOBS)}_{in_words(status, BLOCK_JOB_ENDS)}", harmless(disk), ""
    )


def _job_completed(job: Mapping[str, Any]) -> Meaning:
    failed = harmless(job.get("errmsg"))
    return Meaning(in_words(job.get("operation"), OPERATIONS), more=failed)


def _agent(state: object, *reason: object) -> Meaning:
    return Meaning(in_words(state, AGENT_STATES), more=_rest(*reason))


def _metadata(kind: object, uri: object = "") -> Meaning:
    return Meaning(in_words(kind, METADATA), more=harmless(uri))


def _threshold(disk: object, path: object, threshold: object, excess: object) -> Meaning:
    more = f"{harmless(path)} {harmless(threshold)} bytes and {harmless(excess)} more"
    return Meaning("", harmless(disk), more)


def _memory_failure(recipient: object, action: object, *flags: object) -> Meaning:
    return Meaning(
        f"{in_words(recipient, RECIPIENTS)}_{in_words(action, FAILURES)}", more=_rest(*flags)
    )


def _of_device(alias: object, *rest: object) -> Meaning:
    return Meaning("", harmless(alias), _rest(*rest))


def _graphics(phase: object, *_: object) -> Meaning:
    return Meaning(in_words(phase, GRAPHICS))  # who has connected is nobody's business here


def _tunable(changed: Mapping[str, object]) -> Meaning:
    return Meaning(more=_rest(*changed))


def _only_more(*values: object) -> Meaning:
    return Meaning(more=_rest(*values))


def _rest(*values: object) -> str:
    return harmless(" ".join(harmless(each) for each in values))


MEANINGS: Final[Mapping[str, Callable[..., Meaning]]] = {
    "lifecycle": _lifecycle,
    "watchdog": lambda action: Meaning(in_words(action, WATCHDOG)),
    "graphics": _graphics,
    "io_error": _io_error,
    "disk_change": _disk_change,
    "tray_change": lambda alias, reason: Meaning(in_words(reason, TRAY), harmless(alias)),
    "device_removed": _of_device,
    "device_added": _of_device,
    "device_removal_failed": _of_device,
    "block_job": _block_job,
    "tunable": _tunable,
    "agent_lifecycle": _agent,
    "channel_lifecycle": _agent,
    "job_completed": _job_completed,
    "metadata_change": _metadata,
    "block_threshold": _threshold,
    "memory_failure": _memory_failure,
    "memory_device_size_change": _of_device,
    "nic_mac_change": _of_device,
}


def meaning_of(name: str, values: tuple[Any, ...]) -> Meaning:
    """Return what an event says; one that looks otherwise than known keeps its values."""
    try:
        return MEANINGS.get(name, _only_more)(*values)
    except (TypeError, AttributeError, ValueError):
        return _only_more(*values)


def known_details() -> Iterator[tuple[str, str]]:
    """Yield kinds of events with those of their details that are known beforehand."""
    details = {
        "lifecycle": [f"{name}_{each}" for name, of in LIFECYCLE.values() for each in of],
        "watchdog": [*WATCHDOG],
        "graphics": [*GRAPHICS],
        "io_error": ["enospc", OTHER],
        "disk_change": [*DISK_CHANGES],
        "tray_change": [*TRAY],
        "block_job": [f"{job}_{end}" for job in BLOCK_JOBS[1:] for end in BLOCK_JOB_ENDS],
        "agent_lifecycle": [*AGENT_STATES[1:]],
        "channel_lifecycle": [*AGENT_STATES[1:]],
        "job_completed": [*OPERATIONS[1:]],
        "metadata_change": [*METADATA],
        "memory_failure": [f"{who}_{what}" for who in RECIPIENTS for what in FAILURES],
    }
    for event in EVENTS.values():
        yield from ((event, detail) for detail in details.get(event, [""]))
