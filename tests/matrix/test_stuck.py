"""A stopped QEMU among others, on every generation of libvirt and its own client library."""

from __future__ import annotations

from lab.support.watcher import Watch, newest, polls, settled, shown, times
from matrix.support.generation import Generation


RSS = "libvirt_domain_memory_stats_rss_bytes"
READ = "libvirt_domain_block_stats_read_requests_total"
STATE = "libvirt_domain_info_state"
VICTIM = "paused-1"
POLLS = 8


def test_one_stopped_guest_hides_nobody(generation: Generation):
    """The others miss no interval, the stopped one is named, and is back in two intervals."""
    lab = generation
    names = set(lab.names())
    others = names - {VICTIM}
    with lab.agent(inside=True) as (agent, lines):

        def responsive() -> float | None:
            return agent.value("virtstatd_domain_responsive", domain=VICTIM)

        agent.wait_for(lambda: shown(agent, READ) == names)
        with Watch(agent, READ, others) as watch:
            since = newest(lines)
            with lab.stuck(VICTIM):
                settled(agent, lambda: responsive() == 0)
                assert VICTIM in shown(agent, STATE)
                agent.wait_for(lambda: VICTIM not in shown(agent, READ))
                begun = polls(agent)
                agent.wait_for(lambda: polls(agent, since=begun) >= POLLS)
                assert VICTIM not in shown(agent, READ), "stale numbers under a fresh time"
                assert [e["domain"] for e in agent.events("domain.unresponsive")] == [VICTIM]
            settled(agent, lambda: {VICTIM} <= shown(agent, READ) & shown(agent, RSS))
            agent.wait_for(lambda: responsive() == 1)
        assert watch.looks > POLLS
        assert not watch.missing
        assert agent.stop() == 0
    counts = times(lines, "block", "read_requests", since)
    healthy = {counts[name] for name in others}
    assert max(healthy) - min(healthy) <= 1, "a guest missed an interval that others did not"
    assert counts[VICTIM] < min(healthy) - POLLS / 2
    safe = times(lines, "state", since=since)
    assert max(safe.values()) - min(safe.values()) <= 1
