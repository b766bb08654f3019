"""The agent ends on a signal, whatever hangs at that moment."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from lab.support.hypervisor import Lab
from lab.support.watcher import polls
from support.agent import Agent, running
from support.waits import slowness


DRAIN_SECONDS = 5.0
HUNG_SECONDS = 5 * DRAIN_SECONDS
RELUCTANT = "[[sink]]\ntype = 'influx'\nurl = 'http://127.0.0.1:{port}'\n"


@contextmanager
def mute() -> Iterator[int]:
    """Listen on a port, take connections and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def ended(agent: Agent) -> float:
    """End an agent once, which has to go well, and return how long it took."""
    begun = time.monotonic()
    assert agent.stop() == 0
    seconds = time.monotonic() - begun
    assert [line["ending"] for line in agent.events("agent.stopped")] == ["stopped"]
    assert not agent.events("not_json")
    assert not any("exception" in line for line in agent.log)
    return seconds


def test_one_signal_ends_it_well_whatever_hangs(private_lab: Lab, tmp_path: Path):
    """It exits with 0 while a poll hangs, while a connection is opened, while a sink is stuck."""
    names = ("asking", "reconnecting", "delivering")
    for name in names:
        (tmp_path / name).mkdir()
    uri = private_lab.uri_readonly
    with ExitStack() as stack:
        port = stack.enter_context(mute())
        asking = stack.enter_context(running(tmp_path / "asking", uri))
        reconnecting = stack.enter_context(
            running(tmp_path / "reconnecting", uri, hypervisor="keepalive_seconds = 1")
        )
        delivering = stack.enter_context(
            running(tmp_path / "delivering", uri, more=RELUCTANT.format(port=port))
        )
        for agent in (asking, reconnecting, delivering):
            agent.wait_for(partial(lambda agent: polls(agent) >= 2, agent))
        stack.enter_context(private_lab.frozen())
        asking.wait_for(lambda: (asking.value("virtstatd_calls_outstanding") or 0) >= 1)
        took = [ended(asking)]
        reconnecting.wait_for(lambda: reconnecting.events("libvirt.lost"))
        took.append(ended(reconnecting))
        delivering.wait_for(
            lambda: (delivering.value("virtstatd_sink_waiting_batches", sink="influx") or 0) > 1
        )
        took.append(ended(delivering))
        assert delivering.events("sink.abandoned"), "what was not delivered is not told"
    print(*(f"{name}: {each:.1f} s" for name, each in zip(names, took, strict=True)))
    assert max(took) < HUNG_SECONDS * slowness()


def test_a_second_signal_ends_it_at_once(tmp_path: Path):
    """Whoever asks twice does not wait for a sink that does not answer."""
    drain = 25
    with mute() as port:
        more = RELUCTANT.format(port=port)
        with running(tmp_path, "test:///default", drain=drain, more=more) as agent:
            agent.wait_for(lambda: polls(agent) >= 2)
            begun = time.monotonic()
            while agent.process.poll() is None:
                agent.process.send_signal(signal.SIGTERM)
                time.sleep(0.1)  # two that come together are one to the kernel
            assert time.monotonic() - begun < drain / 2 * slowness()
            assert agent.process.returncode == 1
