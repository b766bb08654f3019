"""Every event that the agent logs: what it means, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from virtstatd.runtime.logs import Level


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its level, its meaning, and the action, empty if none is needed."""

    level: Level
    meaning: str
    action: str = ""


EVENTS: Final[dict[str, Event]] = {
    "agent.found": Event(
        "info",
        "What was found at a start: libvirt, guests, sources, sinks, page; what is `missing`.",
        "Follow `next`.",
    ),
    "agent.refused": Event(
        "error",
        "The agent cannot start, because of `reason`.",
        "Fix what `reason` names: a port in use, a file, a secret. `virtstatd check` reports it"
        " too.",
    ),
    "agent.started": Event("info", "The agent runs; `sinks` are the sinks it sends to."),
    "agent.stopped": Event("info", "The agent has ended; `ending` shows whether it restarts."),
    "archive.continued": Event("info", "The archive continues with files of an earlier run."),
    "archive.damaged": Event(
        "error",
        "A file of the archive cannot be read; it is set aside.",
        "Check the disk; restore the file from a backup if its hour matters.",
    ),
    "archive.interrupted": Event(
        "warning",
        "The archive cannot write; batches wait.",
        "Free space on its file system, or repair it.",
    ),
    "archive.lost": Event(
        "error",
        "The archive lost what it could not write.",
        "Free space on its file system, or repair it.",
    ),
    "archive.trimmed": Event(
        "info", "The oldest hours of the archive were removed, as configured."
    ),
    "budget.blind": Event(
        "warning",
        "The cost of polling cannot be measured completely: `what` is missing because of `reason`.",
        "Let the agent see /proc of libvirt's daemon and of the guests.",
    ),
    "budget.exceeded": Event(
        "warning",
        "Polling costs more than the budget at the longest intervals too.",
        "Raise `budget.host_cpu_percent`, or poll fewer groups.",
    ),
    "budget.restored": Event("info", "Intervals are as configured again."),
    "budget.stretched": Event(
        "warning",
        "Intervals are longer than configured, to stay within the budget.",
        "Raise `budget.host_cpu_percent`, or poll fewer groups, if the intervals matter.",
    ),
    "clock.stepped": Event("warning", "The wall clock was set by `seconds`.", "Check NTP."),
    "collector.failed": Event(
        "error",
        "A collector of another package raised, hangs, blocks or ended; it is started again.",
        "Report it to the author of the package; the other collectors are not affected.",
    ),
    "collector.recovered": Event("info", "A collector of another package emits again."),
    "collector.rejected": Event(
        "warning",
        "A collector of another package emitted an invalid batch; it was rejected.",
        "Report `reason` to the author of the package.",
    ),
    "config.rejected": Event(
        "error",
        "A reload was refused, or what it loaded could not start; the agent runs as before.",
        "Fix the `faults`, then reload again.",
    ),
    "cpu_stats.refused": Event(
        "warning",
        "This host does not count CPU time per CPU; `reason` is libvirt's.",
        "Use cgroups of version 1, or switch `cpu_stats` off.",
    ),
    "defined.refused": Event(
        "info",
        "Libvirt refuses a list of guests, or one that a driver does not have; its facts are"
        " missing.",
    ),
    "disk_errors.refused": Event(
        "warning",
        "Libvirt does not know errors of disks with this driver; `reason` is libvirt's.",
        "Switch `disk_errors` off.",
    ),
    "domain.answered": Event("info", "Libvirt returns all groups of this guest again."),
    "domain.decodable": Event("info", "All values of this guest can be decoded again."),
    "domain.refused": Event(
        "warning",
        "Libvirt refuses these `groups` for this guest; its other numbers are reported.",
        "Check the guest's `reason`; the groups are tried again after 5 to 60 minutes.",
    ),
    "domain.responsive": Event("info", "The guest's monitor answers again."),
    "domain.undecodable": Event(
        "warning",
        "Libvirt returned an invalid value for this guest; only that value is left out.",
        "Report the guest's `reason` and libvirt's version.",
    ),
    "domain.undescribed": Event(
        "warning",
        "The XML of this guest cannot be read; it has its numbers, but no `*_info` series.",
        "Check `virsh dumpxml` of the guest.",
    ),
    "domain.unresponsive": Event(
        "warning",
        "The guest's monitor has not answered since `since`; the other guests are polled without"
        " it.",
        "Follow `fix`: its QEMU process `pid` is stopped or waits for storage.",
    ),
    "family.clashed": Event(
        "error",
        "Two metrics with one name differ in kind or help; one of them is left out of the page.",
        "Report it: a collector of another package took a name of the agent's.",
    ),
    "field.unknown": Event(
        "info",
        "Libvirt has a statistic that the catalog does not know; it is sent as an unknown one.",
    ),
    "file.unrotated": Event(
        "warning", "A file could not be rotated.", "Check the permissions of its directory."
    ),
    "file.unwritten": Event(
        "warning",
        "Refused samples could not be written to their file.",
        "Free space there, or let the agent's user write to it.",
    ),
    "finding.began": Event(
        "warning",
        "Something hurts a guest or the host: `text` describes it, and `value` is its size.",
        "Follow `advice`.",
    ),
    "finding.ended": Event("info", "What `text` describes does not hurt any more."),
    "finding.more": Event(
        "warning",
        "Findings of guests that `began` and `ended` in a minute without a line of their own.",
        "`virtstatd status` and the page have all of them; look at the host first.",
    ),
    "group.answered": Event("info", "The hypervisor returns these groups again."),
    "group.refused": Event(
        "warning",
        "The hypervisor refuses these `groups` for every guest.",
        "Remove them from `poll.*.groups` if the driver does not have them.",
    ),
    "guest_agent.answers": Event("info", "The agent in this guest answers again."),
    "guest_agent.asking": Event("info", "Agents in guests are queried again."),
    "guest_agent.balloon_refused": Event(
        "warning",
        "The period of this guest's balloon driver could not be set; it is tried again in an hour.",
        "See `reason`, or set it in the guest's XML.",
    ),
    "guest_agent.balloon_set": Event(
        "info",
        "The period of this guest's balloon driver was set to `seconds`, until the guest ends.",
    ),
    "guest_agent.crowded": Event(
        "warning",
        "Too many queries of agents hang in libvirt, so no guest is queried any more.",
        "Look for guests that are `silent`: restart their agent, or the guest. With"
        " `guest_agent.response_timeout_seconds` libvirt ends such queries itself.",
    ),
    "guest_agent.opened": Event(
        "info",
        "A read-write connection is open, to query agents in guests or to set balloon periods.",
    ),
    "guest_agent.refused": Event(
        "info",
        "An agent or libvirt refuses this `question`; more guests that refuse it are not logged.",
        "See `reason`: the agent may be too old, or forbid it.",
    ),
    "guest_agent.silent": Event(
        "info",
        "The agent in this guest does not answer; it is queried less and less often.",
        "Restart the agent in the guest, if its owner wants to.",
    ),
    "guest_agent.timeout_refused": Event(
        "warning",
        "The time that libvirt waits for this guest's agent could not be set.",
        "See `reason`; libvirt can do it since 5.10.",
    ),
    "guest_agent.timeout_set": Event(
        "info",
        "Libvirt waits at most `seconds` for this guest's agent, until the guest ends.",
    ),
    "guest_agent.unavailable": Event(
        "warning",
        "There is no read-write connection to libvirt to query the agents in guests.",
        "Allow the agent's user, as in systemd/drop-ins/libvirt-group.conf, or switch it off.",
    ),
    "host.slept": Event(
        "info", "The host was suspended for `seconds`; everything is polled again."
    ),
    "influx.opened": Event("debug", "The sink is open."),
    "jobs.refused": Event(
        "info",
        "Libvirt refuses this `call` about jobs; it is not made again before the next connect.",
        "Set `[jobs] enabled = false` if this driver has no jobs.",
    ),
    "libvirt.close_callback_missing": Event(
        "debug", "The driver has no remote connection that could be lost."
    ),
    "libvirt.connected": Event("info", "Libvirt answers; `domains` guests run."),
    "libvirt.events_refused": Event(
        "debug", "Libvirt or its binding is older than these `events` of domains."
    ),
    "libvirt.lost": Event(
        "warning",
        "The connection to libvirt ended; the agent tries again.",
        "Start the daemon if it was not stopped on purpose.",
    ),
    "libvirt.unreachable": Event(
        "warning",
        "Libvirt cannot be reached; `reason` has the error and what to do.",
        "Start libvirtd or virtqemud, or set `hypervisor.uri`.",
    ),
    "local.blind": Event(
        "warning",
        "The agent cannot see `what` in the kernel.",
        "Follow `fix`.",
    ),
    "local.disagreed": Event(
        "warning",
        "A number of libvirt's was not between the kernel's readings before and after it.",
        "Report the `field` and libvirt's version.",
    ),
    "local.off": Event("info", "The guests do not run on this host, so the kernel is not read."),
    "null.closed": Event("info", "The sink that drops everything has ended."),
    "object.answered": Event("info", "Libvirt answers about this pool or network again."),
    "object.hung": Event(
        "warning",
        "Libvirt does not answer about this pool or network; the others are not affected.",
        "Check the storage behind the pool `name`, such as its NFS server.",
    ),
    "objects.refused": Event(
        "info",
        "Libvirt refuses, or does not have, a call about pools or networks (`of`).",
        "Install libvirt's storage or network driver if you want them.",
    ),
    "otlp.opened": Event("debug", "The sink is open."),
    "poll.failing": Event(
        "warning",
        "Calls of this `tier` fail; `reason` has the error and `domains` the guests.",
        "Check for `domain.unresponsive` at the same time; otherwise check libvirt's log.",
    ),
    "poll.recovered": Event("info", "The tier's calls are answered again."),
    "series.cut": Event(
        "warning",
        "A guest or the host has more series than it may; `group` is left out of `domains`.",
        "Find out what has so many; raise the `limit` in [budget] if you want them all.",
    ),
    "series.restored": Event("info", "`group` is left out of no guest any more."),
    "sink.abandoned": Event(
        "error",
        "At shutdown `batches` could not be delivered and are lost.",
        "Set `spool_bytes` if that must not happen.",
    ),
    "sink.caught_up": Event("info", "The destination accepts batches in time again."),
    "sink.close_failed": Event("warning", "The sink did not close in time, or raised."),
    "sink.denied": Event(
        "error",
        "The destination refuses the credentials or the address.",
        "Fix the credentials or the address; files are read again automatically.",
    ),
    "sink.failing": Event(
        "warning",
        "The destination is unavailable or refuses batches; waiting and lost batches are counted.",
        "Check the destination.",
    ),
    "sink.kept": Event("info", "At shutdown `batches` are kept on disk for the next start."),
    "sink.lagging": Event(
        "warning",
        "Batches are sent more than two intervals late, although nothing fails.",
        "Compare the rates in and out; see what slows the destination, or raise `request_samples`.",
    ),
    "sink.poisoned": Event(
        "error",
        "The destination cannot accept this series; only this series is lost.",
        "Check the destination's log for the series.",
    ),
    "sink.recovered": Event("info", "The destination accepts batches again."),
    "sink.unfinished": Event(
        "error",
        "At shutdown the queue could not be written in time.",
        "Look at the disk of the state directory.",
    ),
    "spool.damaged": Event(
        "error",
        "Records of the spool cannot be read; they are counted as dropped.",
        "Look at the disk of the state directory.",
    ),
    "spool.failed": Event(
        "error",
        "The spool's disk is full or broken; batches wait in memory.",
        "Free space on the disk of the state directory, or repair it.",
    ),
    "spool.kept": Event(
        "warning",
        "A later version of virtstatd wrote this spool, which this version cannot read.",
        "Install that version again: its `virtstatd spool drain` sends what `directory` has.",
    ),
    "spool.orphaned": Event(
        "warning",
        "Batches wait on disk for a sink that is not configured, or has no spool any more.",
        "`virtstatd spool drain` sends them through another sink, `remove` deletes them.",
    ),
    "spool.recovered": Event("info", "Batches of an earlier run were found on disk."),
    "spool.refused": Event(
        "error",
        "The spool cannot be used; batches wait in memory.",
        "Fix what `reason` names.",
    ),
    "spool.regained": Event("info", "The spool's disk works again."),
    "web.crashed": Event(
        "error", "An answer to a client failed because of a fault in the agent.", "Report it."
    ),
    "web.crowded": Event(
        "warning",
        "No more connections can be accepted for the moment; `reason` is the kernel's.",
        "Raise `LimitNOFILE=` of the unit.",
    ),
    "web.exposed": Event(
        "warning",
        "Other machines reach this address without a login: only metrics are shown.",
        "Add users or certificates to the table `[web]`, or `open = true`.",
    ),
    "web.listening": Event("info", "The agent listens at this address; `paths` are shown there."),
    "web.stale": Event(
        "warning",
        "Files of the table `[web]` cannot be used; their former content stays in force.",
        "Fix what `reason` names.",
    ),
    "write.negotiated": Event("info", "The receiver supports this version of remote write."),
}
