"""
Sets how long libvirt waits for the agent of a guest, where the configuration wants it.

Without it libvirt waits until the agent answers or the guest ends. The time holds for the guest's
current run, and for every program that queries its agent.
"""

from __future__ import annotations

import libvirt
from structlog.typing import FilteringBoundLogger

from virtstatd.collect.guest_agent.asking import AgentThread
from virtstatd.collect.guest_agent.guests import AgentGuest
from virtstatd.collect.guest_agent.options import GuestAgentOptions


class ResponseTimeouts:
    """Sets the time once for each run of a guest, on the thread for guests' agents."""

    def __init__(
        self, options: GuestAgentOptions, thread: AgentThread, log: FilteringBoundLogger
    ) -> None:
        self._seconds = options.response_timeout_seconds
        self._limit = options.limit_seconds
        self._thread = thread
        self._log = log

    async def put(self, guest: AgentGuest) -> None:
        """Set the time of a guest that does not have it; raises where no call can be made."""
        if not self._seconds or guest.limited:
            return
        guest.limited = True
        refused = await self._thread.change(guest.domain.uuid, self._set, self._limit)
        if refused:
            self._log.warning("guest_agent.timeout_refused", **guest.known, reason=refused)
        else:
            self._log.info("guest_agent.timeout_set", **guest.known, seconds=self._seconds)

    def _set(self, domain: libvirt.virDomain) -> None:
        domain.agentSetResponseTimeout(self._seconds)
