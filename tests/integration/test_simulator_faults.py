"""What the simulator's faults do to real clients, as measured on libvirt 9.0."""

import asyncio
import math
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.simulator import LibvirtError, Simulated, Wire, python, records, simulated, virsh, wire
from virtstatd_simulator import CommandError, Options, Simulator
from virtstatd_simulator.wire import rpc
from virtstatd_simulator.wire.rpc import KEEPALIVE_PROGRAM, MESSAGE, PING, PONG
from virtstatd_simulator.wire.xdr import Reader, pack_array, pack_int, pack_string, pack_uint


NOWAIT = 1 << 29
STATS, STATE, CONTROL_INFO, LIST = 344, 212, 229, 273
HOSTNAME, GUEST_INFO = 59, 418
STATS_NAME = "CONNECT_GET_ALL_DOMAIN_STATS"
LIFECYCLE, REGISTER = 0, 316
QUIET_GROUPS = 1 | 16 | 64 | 256


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """Ten running guests of one vCPU; a wait for a job ends soon."""
    return Options(socket=tmp_path / "socket", domains=10, profile="small", job_wait_seconds=0.05)


Connect = Callable[..., Awaitable[Wire]]


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Connect]:
    """Connect to the simulator, and hang up in the end."""
    clients: list[Wire] = []

    async def connect(*, opened: bool = True) -> Wire:
        clients.append(await wire(tmp_path / "socket", opened=opened))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def bulk(groups: int = 0, flags: int = NOWAIT | 1, domains: list[bytes] | None = None) -> bytes:
    """Pack the arguments of the bulk call."""
    return pack_array(domains or []) + pack_uint(groups) + pack_uint(flags)


async def fields(client: Wire, arguments: bytes) -> dict[str, int]:
    """Ask for statistics and count each guest's."""
    return {r["name"]: len(r["params"]) for r in records(await client.call(STATS, arguments))}


async def control(client: Wire, domain: bytes) -> list[int]:
    """Read the control info of a guest."""
    reader = Reader(await client.call(CONTROL_INFO, domain + pack_uint(0)))
    return [reader.take_uint(), reader.take_uint(), reader.take_uhyper()]


async def hung(simulator: Simulator, count: int = 1) -> list[str]:
    """Make guests hang, and return their names."""
    answer: dict[str, Any] = await simulator.command("hang", count=count)
    return list(answer["domains"])


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until something is so."""
    while not condition():
        await asyncio.sleep(0)


# a guest whose monitor hangs


async def test_a_stuck_guest_blocks_its_first_caller_alone(
    options: Options, connect: Connect
) -> None:
    """NOWAIT hangs with the guest, steps over it while the job is held, and names the culprit."""
    async with Simulator(options) as simulator:
        first, second = await connect(), await connect()
        whole = await fields(first, bulk())
        assert len(set(whole.values())) == 1
        (name,) = await hung(simulator)
        guest = simulator.host.by_name[name]
        assert await control(second, guest.pack()) == [0, 0, 0]  # not queried yet

        await first.send(STATS, bulk())
        await until(guest.job.locked)
        stepped = await fields(second, bulk())
        partial = stepped.pop(name)
        assert partial < whole.pop(name)
        assert stepped == whole
        state, details, milliseconds = await control(second, guest.pack())
        assert (state, details) == (2, 0)
        assert milliseconds >= 0
        assert simulator.server.workers.idle_normal == 19  # the first call still runs

        await simulator.command("release")
        answer = await first.receive()
        assert answer is not None
        counts = {r["name"]: len(r["params"]) for r in records(answer[1])}
        assert counts[name] > partial
        assert await control(second, guest.pack()) == [0, 0, 0]


async def test_without_nowait_a_held_job_is_waited_for(options: Options, connect: Connect) -> None:
    """Each stuck guest costs the whole wait, one after the other, and then half its fields."""
    async with Simulator(options) as simulator:
        holders = [await connect() for _ in range(2)]
        client = await connect()
        names = await hung(simulator, 2)
        for holder, name in zip(holders, names, strict=True):
            guest = simulator.host.by_name[name]
            await holder.send(STATS, bulk(domains=[guest.pack()]))
            await until(guest.job.locked)
        start = time.monotonic()
        counts = await fields(client, bulk(flags=1))
        assert time.monotonic() - start >= 2 * options.job_wait_seconds
        assert {name for name in counts if counts[name] < max(counts.values())} == set(names)


async def test_groups_without_the_job_never_wait(options: Options, connect: Connect) -> None:
    """STATE, INTERFACE, PERF and MEMORY of a stuck guest are answered in full."""
    async with Simulator(options) as simulator:
        client = await connect()
        before = await fields(client, bulk(QUIET_GROUPS, 1))
        await simulator.command("hang", count=10)
        assert await fields(client, bulk(QUIET_GROUPS, 1)) == before


async def test_who_hangs_up_leaves_the_job_taken(options: Options, connect: Connect) -> None:
    """The call of a client that is gone goes on holding the guest, and a worker, as in libvirtd."""
    async with Simulator(options) as simulator:
        (name,) = await hung(simulator)
        guest = simulator.host.by_name[name]
        first = await connect()
        await first.send(STATS, bulk())
        await until(guest.job.locked)
        first.close()
        await until(lambda: not simulator.server.connections)
        assert guest.job.locked()
        await simulator.command("release")
        await until(lambda: not guest.job.locked())
        await until(lambda: simulator.server.workers.idle_normal == 20)


async def test_a_stuck_guest_that_ends_lets_go(options: Options, connect: Connect) -> None:
    """When the QEMU of a stuck guest dies its callers are answered."""
    async with Simulator(options) as simulator:
        client = await connect()
        (name,) = await hung(simulator)
        await client.send(STATS, bulk())
        await until(simulator.host.by_name[name].job.locked)
        await simulator.command("destroy", domains=[name])
        assert await client.receive() is not None


async def test_a_guest_that_is_held_is_stepped_over(options: Options, connect: Connect) -> None:
    """Another program's call holds a guest for a while; libvirt says so, and then it is over."""
    async with Simulator(options) as simulator:
        client = await connect()
        before = await fields(client, bulk())
        guest = next(iter(simulator.host.guests.values()))
        await simulator.command("hold", domains=[guest.name], seconds=60.0)
        with pytest.raises(CommandError, match=f'names "{guest.name}", whose job is taken'):
            await simulator.command("hold")
        stepped = await fields(client, bulk())
        assert {name for name in before if stepped[name] != before[name]} == {guest.name}
        assert await fields(client, bulk(QUIET_GROUPS)) == await fields(client, bulk(QUIET_GROUPS))
        state, details, milliseconds = await control(client, guest.pack())
        assert (state, details) == (2, 0)
        assert milliseconds < 60_000
        assert (await simulator.command("status"))["occupied"] == [guest.name]
        await simulator.command("release")
        assert await fields(client, bulk()) == before
        assert await control(client, guest.pack()) == [0, 0, 0]
        await simulator.command("hold", seconds=0.001)
        await until(lambda: not guest.job.locked())
        await simulator.command("hold", seconds=60.0)
        await simulator.command("restart")
        assert not guest.job.locked()


async def test_a_guest_that_lags_holds_who_asks_its_monitor(
    options: Options, connect: Connect
) -> None:
    """Its answer comes whole and late; meanwhile others step over it."""
    async with Simulator(options) as simulator:
        first, second = await connect(), await connect()
        before = await fields(first, bulk())
        guest = next(iter(simulator.host.guests.values()))
        await simulator.command("lag", domains=[guest.name], seconds=0.1)
        began = time.monotonic()
        await first.send(STATS, bulk())
        await until(guest.job.locked)
        stepped = await fields(second, bulk())
        assert {name for name in before if stepped[name] != before[name]} == {guest.name}
        answer = await first.receive()
        assert answer is not None
        assert {r["name"]: len(r["params"]) for r in records(answer[1])} == before
        assert time.monotonic() - began >= 0.1
        await simulator.command("release")
        assert guest.lag == 0


# workers and requests


async def test_twenty_workers_and_five_for_what_may_not_wait(
    options: Options, connect: Connect
) -> None:
    """Twenty stuck calls stop every other bulk call, and no lookup."""
    async with Simulator(options) as simulator:
        await simulator.command("hang")
        # the first has the job in hand and hangs, the others wait for it
        stuck = [await connect() for _ in range(5)]
        server = simulator.server
        simulator.answering.job_wait_seconds = 60.0
        for client in stuck:
            for _ in range(4):
                await client.send(STATS, bulk(flags=1))
        await until(lambda: server.workers.busy == 20)
        other = await connect()
        await other.send(STATS, bulk(1))
        await until(lambda: server.workers.waiting == 1)
        reader = Reader(await (await connect()).call(LIST, pack_int(0) + pack_uint(0)))
        assert [reader.take_uint(), reader.take_uint()] == [0, 10]
        await simulator.command("release")
        answer = await other.receive()
        assert answer is not None
        assert len(records(answer[1])) == 10


async def test_five_calls_and_no_more_of_one_client(options: Options, connect: Connect) -> None:
    """After five unanswered calls a client is not read, keepalive included; then it goes on."""
    async with Simulator(options) as simulator:
        await simulator.command("slow", seconds=60.0, procedure=STATS_NAME, times=4)
        client = await connect()
        for _ in range(4):
            await client.send(STATS, bulk(1))
        await client.call(HOSTNAME)  # four in flight leave room for one
        await simulator.command("hang")
        await client.send(STATS, bulk())
        await until(lambda: simulator.server.workers.busy == 5)
        await client.send(PING, program=KEEPALIVE_PROGRAM, type_=MESSAGE)
        await client.send(HOSTNAME)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.receive()
        await simulator.command("release")
        answers = [await client.receive() for _ in range(3)]
        assert [head.procedure for head, _ in filter(None, answers)] == [STATS, PONG, HOSTNAME]


async def test_keepalive_is_answered_and_asked(options: Options, connect: Connect) -> None:
    """A ping gets its pong; a silent client that asked for keepalive is pinged, then dropped."""
    async with Simulator(options) as simulator:
        client = await connect()
        await client.send(PING, program=KEEPALIVE_PROGRAM, type_=MESSAGE)
        head, payload = await client.receive() or (None, b"")
        assert head is not None
        assert (head.program, head.procedure, head.type, head.serial) == (
            KEEPALIVE_PROGRAM,
            PONG,
            MESSAGE,
            0,
        )
        assert payload == b""
        (connection,) = simulator.server.connections
        connection.start_keepalive(0.02)
        pings = 0
        while await client.receive() is not None:
            pings += 1
        assert pings == 5


# replies


async def test_replies_fail_as_told(options: Options, connect: Connect) -> None:
    """Errors, delays and refusals strike the procedure and the number of calls they are for."""
    async with Simulator(options) as simulator:
        client = await connect()
        await simulator.command(
            "fail", procedure="CONNECT_GET_ALL_DOMAIN_STATS", times=2, code=38, message="no luck"
        )
        await client.call(HOSTNAME)
        for _ in range(2):
            with pytest.raises(LibvirtError) as refused:
                await fields(client, bulk())
            assert refused.value.args == (38, 10, "no luck")
        assert len(await fields(client, bulk())) == 10

        await simulator.command("oversize")
        with pytest.raises(LibvirtError) as refused:
            await fields(client, bulk())
        assert refused.value.args == (39, 7, "Unable to encode message payload")

        await simulator.command("slow", seconds=0.05)
        start = time.monotonic()
        await fields(client, bulk())
        assert time.monotonic() - start >= 0.05
        await simulator.command("fail", times=None)
        await simulator.command("clear")
        assert len(await fields(client, bulk())) == 10


async def test_one_guest_that_is_refused_fails_the_call_for_all(
    options: Options, connect: Connect
) -> None:
    """With it nobody is answered for its groups; without it, or for other groups, all are."""
    async with Simulator(options) as simulator:
        client = await connect()
        first, *others = simulator.host.guests.values()
        rest = [guest.pack() for guest in others]
        await simulator.command("refuse", domains=[first.name], groups=["interface", "vm"], times=2)
        for groups in (16, 2047):
            assert len(await fields(client, bulk(groups, domains=rest))) == 9
            assert len(await fields(client, bulk(2047 & ~16 & ~1024))) == 10
            assert (await simulator.command("status"))["faults"] == 1
            with pytest.raises(LibvirtError) as refused:
                await fields(client, bulk(groups))
            assert refused.value.args == (38, 10, f"cannot read statistics of '{first.name}'")
        assert (await simulator.command("status"))["faults"] == 0
        assert len(await fields(client, bulk())) == 10

        await simulator.command("refuse", domains=[first.name], times=None, too_large=True)
        for groups in (1, 0):
            with pytest.raises(LibvirtError) as refused:
                await fields(client, bulk(groups, domains=[first.pack()]))
            assert refused.value.args == (39, 7, "Unable to encode message payload")
        await simulator.command("clear")
        assert len(await fields(client, bulk())) == 10


async def test_a_value_that_cannot_be(options: Options, connect: Connect) -> None:
    """One statistic of a guest, or one of each group, has a false value until it is cleared."""

    async def values(client: Wire, domain: bytes) -> dict[str, tuple[int, Any]]:
        (record,) = records(await client.call(STATS, bulk(domains=[domain])))
        return {key: (type_, value) for key, type_, value in record["params"]}

    async with Simulator(options) as simulator:
        simulator.host.stop_time()
        client = await connect()
        first, second, *_ = simulator.host.guests.values()
        before = await values(client, first.pack())
        await simulator.command("spoil", domains=[first.name], key="cpu.time", value=-(1 << 40))
        assert await values(client, first.pack()) == {**before, "cpu.time": (3, -(1 << 40))}
        await simulator.command("spoil", domains=[second.name], groups=["block", "vcpu"])
        false = {k: v for k, v in (await values(client, second.pack())).items() if v[1] != v[1]}
        assert {key.partition(".")[0]: type_ for key, (type_, _) in false.items()} == {
            "block": 5,
            "vcpu": 5,
        }
        with pytest.raises(CommandError, match=f'key is "cpu", which {first.name} does not have'):
            await simulator.command("spoil", key="cpu")
        await simulator.command("clear")
        assert await values(client, first.pack()) == before


async def test_guests_vanish_in_mid_call(options: Options, connect: Connect) -> None:
    """A guest that was asked for and ended is missing from the answer, without an error."""
    async with Simulator(options) as simulator:
        client = await connect()
        packed = [guest.pack() for guest in simulator.host.guests.values()]
        await simulator.command("vanish", count=3)
        await client.call(HOSTNAME)  # nothing that guests could vanish from
        assert len(simulator.answering.faults.armed) == 1
        assert len(await fields(client, bulk(domains=packed))) == 7
        assert len(simulator.host.guests) == 7
        last = list(simulator.host.by_name)[-1]
        await simulator.command("vanish", domains=[last])
        assert last not in await fields(client, bulk())
        assert len(simulator.host.guests) == 6
        with pytest.raises(LibvirtError, match="no domain with matching uuid"):
            await client.call(STATE, packed[0] + pack_uint(0))


async def test_a_reply_is_cut(options: Options, connect: Connect) -> None:
    """The connection drops after the given number of bytes; the next one is whole."""
    async with Simulator(options) as simulator:
        await simulator.command("cut", after_bytes=1000, procedure=STATS_NAME)
        client = await connect()
        await client.send(STATS, bulk())
        assert len(await client.reader.read()) == 1000
        assert len(await fields(await connect(), bulk())) == 10


async def test_a_frame_that_announces_too_much_ends_its_connection(
    options: Options, connect: Connect
) -> None:
    """It comes whole behind the reply before it; then the connection ends, and no other."""
    async with Simulator(options) as simulator:
        client, other = await connect(), await connect()
        before = len(await client.call(STATS, bulk()))
        await simulator.command("oversize", frame=True)
        await client.send(STATS, bulk())
        async with asyncio.timeout(20):
            blob = await client.reader.read()
        (size,) = struct.unpack_from(">I", blob)
        assert size > rpc.MAX_MESSAGE
        assert len(blob) < before
        await until(lambda: len(simulator.server.connections) == 1)
        assert len(await fields(other, bulk())) == 10


async def test_a_frozen_daemon_answers_nothing(options: Options, connect: Connect) -> None:
    """Frozen, it takes connections and no more; thawed, it answers all that waited."""
    async with Simulator(options) as simulator:
        client = await connect()
        await simulator.command("freeze")
        late = await connect(opened=False)
        await client.send(HOSTNAME)
        await late.send(PING, program=KEEPALIVE_PROGRAM, type_=MESSAGE)
        for each in (client, late):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await each.receive()
        await simulator.command("thaw")
        assert await client.receive() is not None
        assert await late.receive() is not None


async def test_a_restart_ends_connections_and_spares_guests(
    options: Options, connect: Connect
) -> None:
    """Connections and callbacks are gone, guests and their ids are not, jobs are free again."""
    async with Simulator(options) as simulator:
        client = await connect()
        ids = list(simulator.host.by_id)
        (name,) = await hung(simulator)
        await client.send(STATS, bulk())
        await until(simulator.host.by_name[name].job.locked)
        await simulator.command("restart", down_seconds=0.01)
        assert await client.receive() is None
        assert not simulator.host.by_name[name].job.locked()
        await simulator.command("release")
        again = await connect()
        assert len(await fields(again, bulk())) == 10
        assert list(simulator.host.by_id) == ids


# events and churn


async def test_churn_tells_of_every_guest_in_libvirts_order(
    options: Options, connect: Connect
) -> None:
    """A guest that ends sends SHUTDOWN, STOPPED; one that starts sends RESUMED, STARTED."""
    async with Simulator(options) as simulator:
        client = await connect()
        await client.call(REGISTER, pack_int(LIFECYCLE) + pack_uint(0))
        known = {guest.name: guest.id for guest in simulator.host.guests.values()}
        await simulator.command("churn", per_second=200)
        told: dict[str, list[tuple[int, int]]] = {}
        while len(told) < 30:
            _, payload = await client.receive() or (None, b"")
            reader = Reader(payload)
            assert reader.take_int() == 0
            name = reader.take_string()
            reader.take_fixed(16)
            reader.take_int()
            told.setdefault(name, []).append((reader.take_int(), reader.take_int()))
        await simulator.command("churn", per_second=0)
        stopped, started = [(6, 2), (5, 1)], [(4, 0), (2, 0)]
        complete = [events for events in told.values() if len(events) % 2 == 0]
        assert {tuple(events) for events in complete} <= {
            tuple(stopped),
            tuple(started),
            tuple(started + stopped),
        }
        assert all(told[name] == stopped for name in list(known)[:5])
        assert max(simulator.host.by_id) > max(known.values())
        assert len(simulator.host.by_id) == 10


async def test_a_new_guest_counts_from_zero(tmp_path: Path, connect: Connect) -> None:
    """A new incarnation has a new id and counters that begin with it; a paused one stands still."""
    now = 1000.0
    options = Options(socket=tmp_path / "socket", domains=1, profile="small")
    async with Simulator(options, clock=lambda: now) as simulator:
        client = await connect()

        async def cpu_time() -> int:
            (record,) = records(await client.call(STATS, bulk(2)))
            return next(int(value) for name, _, value in record["params"] if name == "cpu.time")

        old = await cpu_time()
        now += 10
        assert await cpu_time() > old
        await simulator.command("suspend")
        old = await cpu_time()
        now += 10
        assert await cpu_time() == old
        await simulator.command("destroy")
        await simulator.command("start")
        assert await cpu_time() == 0
        now += 10
        assert 0 < await cpu_time() < old


GUEST = "instance-00000001"


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ({"do": "dance"}, 'do must be a verb, not "dance"; verbs are status, hang'),
        ({"do": ["hang"]}, "do must be a verb, not a list; verbs are"),
        ({}, "do is missing; verbs are status, hang"),
        ({"do": "hang", "domains": ["no"]}, 'domains names "no", which no guest is called'),
        ({"do": "hang", "domains": GUEST}, 'domains must be a list of names of guests, not "inst'),
        ({"do": "hang", "domains": None}, "domains must be a list of names of guests, not null"),
        ({"do": "hang", "count": "x"}, 'count must be an integer from 1 to 1000000, not "x"'),
        ({"do": "hang", "count": -1}, "count must be an integer from 1 to 1000000, not -1"),
        ({"do": "hang", "count": True}, "count must be an integer from 1 to 1000000, not true"),
        (
            {"do": "hang", "cuont": 1},
            '"cuont" is no argument of hang; its arguments are domains',
        ),
        ({"do": "thaw", "now": 1}, '"now" is no argument of thaw; it has none'),
        ({"do": "start", "domains": [GUEST]}, f'domains names "{GUEST}", which is running already'),
        ({"do": "start", "count": 10_001}, "count must be an integer from 1 to 10000, not 10001"),
        ({"do": "churn"}, "churn needs per_second: a number from 0 to 10000"),
        (
            {"do": "churn", "per_second": math.nan},
            "per_second must be a number from 0 to 10000, ",
        ),
        ({"do": "restart", "down_seconds": -1}, "down_seconds must be a number from 0 to 86400, n"),
        ({"do": "slow", "seconds": "x"}, 'seconds must be a number from 0 to 86400, not "x"'),
        ({"do": "slow", "seconds": None}, "seconds must be a number from 0 to 86400, not null"),
        ({"do": "cut", "after_bytes": None}, "after_bytes must be an integer from 0 to 33554432, "),
        ({"do": "oversize", "frame": 1}, "frame must be true or false, not 1"),
        ({"do": "fail", "cause": 1}, '"cause" is no argument of fail; its arguments are procedure'),
        ({"do": "fail", "procedure": "DANCE"}, "procedure must be the name of a procedure, as"),
        ({"do": "fail", "times": 0}, "times must be an integer from 1 to 1000000 or null for all "),
        ({"do": "vanish", "procedure": None}, '"procedure" is no argument of vanish; its argument'),
        ({"do": "event", "id": 99}, "id must be an integer from 0 to 26, not 99"),
        ({"do": "event", "id": 5}, "id is 5, an event that the simulator does not have"),
        (
            {"do": "event", "id": 13, "arguments": ["x"]},
            "arguments must hold, for event 13, an integer from 0 to 18446744073709551615",
        ),
        (
            {"do": "event", "id": 24},
            "arguments must hold, for event 24, a text, a text or null",
        ),
        ({"do": "event", "id": 7, "arguments": [1]}, "arguments must hold, for event 7, nothing"),
        ({"do": "event", "id": 17, "arguments": [[["a"]]]}, "arguments must hold, for event 17, a"),
        (
            {"do": "event", "id": 17, "arguments": [[["a", 9, 1]]]},
            "arguments hold a parameter that cannot be: a has none of libvirt's types 1 to 7",
        ),
        (
            {"do": "event", "id": 17, "arguments": [[["a", 4, -1]]]},
            "arguments hold a parameter that cannot be: a has a value that does not fit type 4",
        ),
        ({"do": "event", "id": 17, "arguments": 5}, "arguments must be a list, not 5"),
        ({"do": "refuse", "groups": ["net"]}, "groups must be a list of groups of statistics, n"),
        ({"do": "refuse", "groups": [[]]}, "groups must be a list of groups of statistics, named"),
        ({"do": "spoil", "value": 0.5}, "value must be an integer from -100000000000000 to 1000"),
        ({"do": "hold", "seconds": -1}, "seconds must be a number from 0 to 86400, not -1"),
        ({"do": "metadata"}, "metadata needs uri: a text"),
        ({"do": "tune", "limits": 5}, "limits must be an object, not 5"),
        ({"do": "tune", "limits": {"wait": 1}}, "limits knows no wait; limits are cpu_shares, "),
        (
            {"do": "tune", "limits": {"weight": "heavy"}},
            "limits needs an integer from 0 to 4294967295 for weight",
        ),
        ({"do": "tune", "limits": {"numa_nodeset": 1}}, "limits needs a text for numa_nodeset"),
    ],
)
async def test_a_wrong_command_says_what_is_wrong(
    options: Options, command: dict[str, object], complaint: str
) -> None:
    """A command that cannot be carried out changes nothing and names the argument."""
    async with Simulator(options) as simulator:
        with pytest.raises(CommandError) as refused:
            await simulator.control.carry_out(command)
        assert str(refused.value).startswith(complaint)
        status = await simulator.command("status")
        assert (status["active"], status["hung"], status["faults"]) == (10, [], 0)


async def test_a_guest_that_is_shut_off_takes_no_command_for_the_others(tmp_path: Path) -> None:
    """Where one of the guests is in the wrong state, none of them is changed."""
    async with Simulator(Options(socket=tmp_path / "socket", domains=60)) as simulator:
        off = next(guest for guest in simulator.host.guests.values() if not guest.active)
        running = next(guest for guest in simulator.host.guests.values() if guest.active)
        for verb in ("hang", "destroy", "suspend", "resume"):
            with pytest.raises(CommandError, match=f'names "{off.name}", which is shut off'):
                await simulator.command(verb, domains=[running.name, off.name])
        assert (running.state, running.hung) == (1, None)
        assert await simulator.command("start", domains=[off.name]) == {"domains": [off.name]}
        assert off.active


async def test_one_restart_at_a_time(options: Options, connect: Connect) -> None:
    """A restart during another is refused; one that cannot bind reports it, and the next can."""
    async with Simulator(options) as simulator:
        first = asyncio.create_task(simulator.command("restart", down_seconds=0.01))
        await asyncio.sleep(0)
        with pytest.raises(CommandError, match="the daemon is restarting already"):
            await simulator.command("restart")
        await first
        second = asyncio.create_task(simulator.command("restart", down_seconds=0.01))
        await until(lambda: not options.socket.exists())
        options.socket.write_text("in the way")
        with pytest.raises(CommandError, match=r"cannot listen at .*/socket: Address alre"):
            await second
        options.socket.unlink()
        await simulator.command("restart")
        assert len(await fields(await connect(), bulk())) == 10


async def test_a_simulator_that_ends_while_it_restarts_stays_away(options: Options) -> None:
    """A restart that is under way does not bind the socket after the end."""
    async with Simulator(options) as simulator:
        restart = asyncio.create_task(simulator.command("restart", down_seconds=0.01))
        await until(lambda: not options.socket.exists())
    await restart
    assert not options.socket.exists()


# before real clients

EVENTS: list[tuple[dict[str, Any], str, str]] = [
    ({"do": "event", "id": 15, "arguments": ["net1"]}, "device-removed", "net1"),
    ({"do": "event", "id": 19, "arguments": ["net1"]}, "device-added", "net1"),
    ({"do": "event", "id": 13, "arguments": [512]}, "balloon-change", "512KiB"),
    (
        {"do": "event", "id": 17, "arguments": [[["blkdeviotune.disk", 7, "vda"]]]},
        "tunable",
        "\n\tblkdeviotune.disk: vda",
    ),
    ({"do": "event", "id": 24, "arguments": ["vda", None, 1, 2]}, "block-threshold", "dev: vda"),
    ({"do": "event", "id": 9, "arguments": [None, "/new", "disk0", 0]}, "disk-change", "disk0"),
    ({"do": "metadata", "uri": "http://x", "element": "<a/>"}, "metadata-change", "uri http://x"),
    ({"do": "tune", "limits": {"cpu_shares": 7}}, "tunable", "\n\tcputune.cpu_shares: 7"),
    ({"do": "suspend"}, "lifecycle", "Suspended Paused"),
    ({"do": "resume"}, "lifecycle", "Resumed Unpaused"),
    ({"do": "destroy"}, "lifecycle", "Shutdown Finished after host request"),
]


def test_virsh_event_prints_them_all(tmp_path: Path) -> None:
    """`virsh event --all` subscribes to every event there is and decodes those that happen."""
    with simulated(tmp_path, "--domains=3", "--profile=small") as host:
        printed: list[str] = []
        watcher = threading.Thread(
            target=lambda: printed.append(
                virsh(host.uri, "event", "--all", "--loop", "--timeout", "2")
            )
        )
        watcher.start()
        registered = "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"  # the unknown ones are refused
        host.until(lambda status: status["calls"].get(registered, 0) >= 27)
        for command, _, _ in EVENTS:
            host.do(command["do"], **{k: v for k, v in command.items() if k != "do"})
        watcher.join()
    for _, event, words in EVENTS:
        assert f"event '{event}' for domain 'instance-00000001'" in printed[0]
        assert words in printed[0]
    assert "events received: 12" in printed[0]  # a guest that is destroyed sends two


EVENT_LOOP = """
libvirt.virEventRegisterDefaultImpl()
def run():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=run, daemon=True).start()
seen, closed = [], []
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Simulated]:
    """Sixty guests in a process of their own."""
    with simulated(tmp_path, "--domains=60") as host:
        yield host


def test_the_binding_gets_events_until_it_has_enough(host: Simulated) -> None:
    """Callbacks of libvirt-python run for the events they ask for and end when deregistered."""
    with python() as ask:
        ask(EVENT_LOOP)
        ask(f"c = libvirt.openReadOnly({host.uri!r})")
        ask("life = c.domainEventRegisterAny(None, 0, lambda c, d, *a: seen.append(a[:2]), None)")
        ask("c.domainEventRegisterAny(None, 23, lambda c, d, *a: seen.append(a[:2]), None)")
        ask(
            "one = c.domainEventRegisterAny(c.listAllDomains(1)[5], 19,"
            " lambda c, d, *a: seen.append(d.name()), None)"
        )
        (name,) = host.do("destroy")["domains"]
        host.do("metadata", uri="http://x", element="<a/>", domains=["instance-00000006"])
        host.do("event", id=19, arguments=["net1"], count=10)
        while len(ask("seen")) < 4:
            pass
        assert name == "instance-00000001"
        seen = ask("seen")
        assert seen[:3] == [[6, 2], [5, 1], [2, "http://x"]]
        assert len(seen) == 4
        ask("c.domainEventDeregisterAny(life)")
        host.do("destroy")
        ask("c.getHostname()")
        assert len(ask("seen")) == 4


def test_the_binding_notices_death(host: Simulated) -> None:
    """A daemon that restarts closes the connection; one that freezes fails its keepalive."""
    with python() as ask:
        ask(EVENT_LOOP)
        ask(f"c = libvirt.open({host.uri!r})")
        ask("c.registerCloseCallback(lambda c, reason, _: closed.append(reason), None)")
        assert ask("c.setKeepAlive(1, 1)") == 0
        host.do("restart")
        while not ask("closed"):
            pass
        assert ask("c.isAlive()") == 0
        ask(f"c = libvirt.open({host.uri!r})")
        ask("c.registerCloseCallback(lambda c, reason, _: closed.append(reason), None)")
        assert ask("c.setKeepAlive(1, 1)") == 0
        host.do("freeze")
        with pytest.raises(LibvirtError):
            ask("c.getAllDomainStats()")
        while len(ask("closed")) < 2:
            pass
        assert ask("[closed[1], c.isAlive()]") == [2, 0]
        host.do("thaw")
        assert ask(f"len(libvirt.open({host.uri!r}).listAllDomains())") == 60


@pytest.mark.parametrize("fault", [{"do": "cut"}, {"do": "oversize", "frame": True}])
def test_the_binding_survives_broken_replies(host: Simulated, fault: dict[str, object]) -> None:
    """A reply that is cut or too large ends the connection with an error, and no other client."""
    with python(host.uri) as ask:
        ask(f"other = libvirt.openReadOnly({host.uri!r})")
        host.do(**{"verb": fault["do"], **{k: v for k, v in fault.items() if k != "do"}})  # type: ignore[arg-type]
        with pytest.raises(LibvirtError):
            ask("c.getAllDomainStats()")
        assert ask("[c.isAlive(), other.isAlive()]") == [0, 1]
        assert ask("len(other.getAllDomainStats())") == 60


def test_the_binding_hangs_with_a_stuck_guest(host: Simulated) -> None:
    """The first caller hangs; another is answered, sees less of the guest, and names it."""
    with python(host.uri) as first, python(host.uri) as second:
        (name,) = host.do("hang")["domains"]
        first.tell("{d.name(): len(p) for d, p in c.getAllDomainStats(0, 1 | 1 << 29)}")
        host.until(lambda status: status["occupied"] == [name])
        partial = second("{d.name(): len(p) for d, p in c.getAllDomainStats(0, 1 | 1 << 29)}")
        state, details, _ = second(f"c.lookupByName({name!r}).controlInfo()")
        assert [state, details] == [2, 0]
        host.do("release")
        whole = first.hear()
        assert {guest for guest in whole if partial[guest] < whole[guest]} == {name}


async def test_a_client_names_itself_read_only(options: Options, connect: Connect) -> None:
    """On a read-only connection what changes a guest is refused, by the daemon as well."""
    async with Simulator(options) as simulator:
        client = await connect(opened=False)
        await client.call(1, pack_uint(1) + pack_string("qemu:///system") + pack_uint(1))
        guest = next(iter(simulator.host.guests.values()))
        with pytest.raises(LibvirtError, match="read only access prevents virDomainGetGuestInfo"):
            await client.call(GUEST_INFO, guest.pack() + pack_uint(0) * 2)
        client = await connect()
        with pytest.raises(LibvirtError, match="guest agent is not configured"):
            await client.call(GUEST_INFO, guest.pack() + pack_uint(0) * 2)
