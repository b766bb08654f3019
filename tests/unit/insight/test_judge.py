"""Which findings begin and end, and what they say."""

import random
from dataclasses import replace

import pytest

from support.insight import VM, World, control, cpu, disk, read, state
from virtstatd.insight.columns import COLUMNS, Unit
from virtstatd.insight.findings import FINDINGS, FindingKind
from virtstatd.insight.judge import Finding, Judge, Observed
from virtstatd.insight.kinds import kind_documents
from virtstatd.insight.wording import Subject, finding_text, spoken
from virtstatd.testing import HOSTILE_NAMES, make_domain


STEAL = next(kind for kind in FINDINGS if kind.name == "steal")
MEMORY_LOW = next(kind for kind in FINDINGS if kind.name == "memory_low")


def found(world: World) -> list[str]:
    """Return the names of the findings."""
    return [each["finding"] for each in world.insight.judge.documents()]


def test_a_guest_that_waits_for_a_cpu():
    """Steal that lasts is found within two looks, and says whose, how much and what helps."""
    world = World()
    for at in range(4):
        world.put(cpu(VM, ran=1.0 * at, waited=1.05 * at), state(VM))
        world.look()
        world.go(5)
    (finding,) = world.insight.judge.documents()
    assert finding["id"] == f"steal/{VM.uuid}/"
    assert finding["guest"] == {"uuid": VM.uuid, "name": "vm-0"}
    assert finding["severity"] == "warning"
    assert finding["value"] == pytest.approx(0.21)
    assert (finding["threshold"], finding["unit"]) == (0.1, "ratio")
    assert finding["text"] == "vCPUs of vm-0 waited 21 % of the time for a CPU of the host"
    assert finding["advice"].startswith(f"virsh schedinfo {VM.uuid} ")
    assert world.row(VM)["findings"] == 1
    assert world.row(VM)["severity"] == "warning"
    assert world.insight.judge.counts() == {"critical": 0, "warning": 1}


def test_a_stuck_guest_is_critical_at_once_and_ends_at_once():
    """A monitor that does not answer is found at the next look, and is over when it answers."""
    world = World()
    for responsive, names in ((False, ["stuck"]), (True, [])):
        world.put(control(VM, responsive=responsive), state(VM))
        world.go(1)
        world.look()
        assert found(world) == names
    (former,) = world.insight.judge.recent()
    assert former["finding"] == "stuck"
    assert former["until"] > former["since"]
    events = [each.event for each in world.insight.figures.guests[VM.uuid].events]
    assert events == ["stuck began", "responsive", "stuck ended"]


def test_a_migration_that_does_not_converge_is_found():
    """It is found when nothing was gained for a minute, and is over when the migration is."""
    world = World()
    for stalled, names in ((0, []), (59_000, []), (61_000, ["migration_stalled"])):
        world.put(read(VM, "job", {("stalled", ()): stalled}), state(VM), lifetime_seconds=30)
        world.look()
        assert found(world) == names
        world.go(5)
    for _ in range(25):
        world.put(state(VM))
        world.go(5)
        world.look()
    assert not found(world)


def test_a_guest_among_thousands_that_turns_stuck_is_found_at_the_next_look():
    """However long a round takes, a monitor that stops answering is seen at once."""
    world = World()
    several = [make_domain(each) for each in range(3000)]
    world.put(*(control(each, responsive=True) for each in several))
    for _ in world.insight.look():
        pass
    world.put(control(several[2900], responsive=False))
    assert sum(1 for _ in world.insight.look()) <= 101
    (finding,) = world.insight.judge.documents()
    assert finding["guest"]["name"] == "vm-2900"


def test_a_slow_disk_is_named():
    """The finding of a disk says which, and its command quotes it."""
    world = World()
    for requests, seconds in ((0, 0.0), (10, 1.0)):
        world.go(5)
        world.put(disk(VM, requests, seconds, "vd a"), state(VM))
    world.look()
    (finding,) = world.insight.judge.documents()
    assert finding["device"] == "vd a"
    assert finding["text"] == "Requests to disk vd a of vm-0 take 100 ms"
    assert f"virsh domblkinfo {VM.uuid} 'vd a'" in finding["advice"]


def test_a_disk_at_its_limit_is_named():
    """A disk that makes as many requests as it may is found, with what it may."""
    world = World()
    vda = (("target_device", "vda"),)
    limit = read(VM, "domain", {("limit_total_requests", vda): 100, ("limit_read_bytes", vda): 0})
    requests = (*vda, ("limit", "total_requests"))
    used = read(VM, "storage", {("limit_used", requests): 0.98})
    for at in range(2):
        world.put(disk(VM, 490 * at, 0.01 * at), state(VM))
        world.put(limit, source="inventory", lifetime_seconds=120.0)
        world.put(used, source="storage")
        world.go(5)
    world.look()
    (finding,) = world.insight.judge.documents()
    assert finding["text"] == "Disk vda of vm-0 is at 98 % of its limit"
    document = world.insight.documents.guest(VM.uuid)
    assert document
    (shown,) = document["disks"]
    assert shown["limits"] == {"total_iops": 100}
    assert shown["at_limit_ratio"] == pytest.approx(0.98)


def test_each_kind_says_where_it_begins():
    """Every kind is there once, and a column that names one counts in the unit of that."""
    kinds = {each["finding"]: each for each in kind_documents()}
    assert list(kinds) == [*dict.fromkeys(kind.name for kind in FINDINGS)]
    assert kinds["disk_limited"]["threshold"] == 0.95
    assert (kinds["steal"]["threshold"], kinds["steal"]["critical"]) == (0.1, 0.3)
    named = [each for each in COLUMNS if each.finding]
    assert [each.id for each in named] == [
        *("steal_ratio", "steal_peak_ratio", "disk_latency_seconds")
    ]
    for each in named:
        assert kinds[each.finding]["unit"] == each.unit


def test_what_ended_with_its_guest():
    """A guest that ends takes its findings with it."""
    world = World()
    world.put(control(VM, responsive=False))
    world.look()
    world.put(gone=[VM])
    world.look()
    world.look()
    assert found(world) == []
    assert [each.until > 0 for each in world.told] == [True, True]  # one object, told twice
    assert len(world.insight.judge.recent()) == 1


def test_what_is_not_known_any_more_ends_late():
    """A value that ceases for some seconds ends no finding, one that ceases for a minute does."""
    world = World()
    world.put(control(VM, responsive=False), lifetime_seconds=5.0)
    judge = world.insight.judge
    judge.look(VM, [Observed(STEAL, "", 0.5)], 0.0)
    judge.look(VM, [Observed(STEAL, "", 0.5)], 6.0)
    judge.look(VM, [], 30.0)
    assert found(world) == ["steal"]
    judge.look(VM, [], 66.1)
    assert found(world) == []


def test_the_host_and_the_agent_have_findings_too():
    """Libvirt, memory, sinks and late polls are looked at as guests are."""
    world = World(failing=["out"])
    tiers = (("tier", "pulse"),)
    for _ in range(4):
        world.put(
            read(
                None,
                "agent",
                {
                    ("age", tiers): 100.0,
                    ("configured_interval", tiers): 5.0,
                    ("interval", tiers): 5.0,
                    ("sink_lost_samples", (("sink", "out"), ("reason", "rejected"))): 0,
                    ("up", ()): 0,
                },
            ),
            source="agent",
            lifetime_seconds=60.0,
        )
        world.put(
            read(None, "node", {("memory_available", ()): 10, ("memory_total", ()): 1000}),
            source="local summary",
        )
        world.look()
        world.go(5)
    assert set(found(world)) == {
        *("libvirt_down", "host_memory_low", "sink_failing", "poll_late"),
    }
    late = next(each for each in world.insight.judge.documents() if each["finding"] == "poll_late")
    assert (late["device"], late["value"], late["threshold"]) == ("pulse", 100.0, 15.0)
    assert late["guest"] is None


@pytest.mark.parametrize("kind", [STEAL, MEMORY_LOW])
def test_no_finding_flaps(kind: FindingKind):
    """Around its threshold a value begins and ends a finding twice a minute at most."""
    pick = random.Random(5)
    told: list[Finding] = []
    judge = Judge(lambda: 1, told.append)
    for second in range(0, 3600, 5):
        value = kind.threshold * pick.uniform(0.9, 1.1)
        judge.look(VM, [Observed(kind, "", value)], float(second))
    assert len(told) <= 1
    judge = Judge(lambda: 1, told.append)
    told.clear()
    for second in range(0, 3600, 5):
        value = kind.threshold * pick.choice((0.1, 10.0))
        judge.look(VM, [Observed(kind, "", value)], float(second))
    assert len(told) <= 2 * 60


@pytest.mark.parametrize("kind", FINDINGS, ids=[f"{each.name} {each.text}" for each in FINDINGS])
def test_what_is_said_fits_the_severity(kind: FindingKind):
    """Until a finding ends it says the last value that hurt, which its severity goes by."""
    judge = Judge(lambda: 1)
    bad = kind.threshold / 2 if kind.below else kind.threshold * 2 + 1
    good = kind.threshold * 2 + 1 if kind.below else -1.0
    for now in range(0, int(kind.hold_seconds) + 10, 5):
        judge.look(None, [Observed(kind, "", bad)], float(now))
    judge.look(None, [Observed(kind, "", good)], now + 1.0)
    several = [*judge.documents(), *judge.recent()]
    assert [(each["value"], each["severity"]) for each in several] == [(bad, kind.severity_of(bad))]


def test_the_worst_come_first():
    """Critical findings come before warnings, and of these the longest first."""
    times = iter(range(1, 100))
    judge = Judge(lambda: next(times) * 1_000_000_000)
    for number, value in ((0, 0.2), (1, 0.2), (2, 0.9)):
        for now in 0.0, 10.0:
            judge.look(make_domain(number), [Observed(STEAL, "", value)], now)
    assert [each["guest"]["name"] for each in judge.documents()] == [
        *("vm-2", "vm-0", "vm-1"),
    ]


@pytest.mark.parametrize("kind", FINDINGS, ids=lambda each: each.name)
def test_texts_are_complete_and_names_stay_as_they_are(kind: FindingKind):
    """Each text and each advice can be made, of the most hostile names, which no shell takes."""
    for name in HOSTILE_NAMES:
        device = name if "{quoted}" in kind.advice or "{device}" in kind.text else ""
        text, advice = finding_text(kind, Subject(make_domain(0, name), device), 0.5, 0.1)
        assert ("{name}" not in kind.text) or name in text
        assert advice
        if name not in ("", "u") and not device:
            assert name not in advice or name.strip() == ""
    assert kind.severity in ("warning", "critical")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.214, "ratio", "21 %"),
        (0.021, "ratio", "2.1 %"),
        (0.0, "ratio", "0 %"),
        (0.057, "seconds", "57 ms"),
        (12.3, "seconds", "12.3 s"),
        (720, "seconds", "12 min"),
        (36000, "seconds", "10 h"),
        (340.4, "per_second", "340/s"),
        (1, "count", "1"),
    ],
)
def test_numbers_as_people_say_them(value: float, unit: Unit, text: str):
    """Values in texts have a unit and few digits."""
    assert spoken(value, unit) == text


def test_a_restarted_guest_has_no_old_findings_of_its_disks():
    """Another run's numbers are not compared with those before it."""
    world = World()
    for requests, seconds in ((0, 0.0), (10, 1.0)):
        world.go(5)
        world.put(disk(VM, requests, seconds), state(VM))
    world.look()
    assert found(world) == ["disk_latency"]
    again = replace(make_domain(0), id=9)
    for _ in range(30):
        world.put(disk(again, 0, 0.0), state(again))
        world.go(5)
        world.look()
    assert found(world) == []
