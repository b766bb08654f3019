"""Which guests are monitored, and what the inventory shows of those that are not."""

from __future__ import annotations

import re
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtstatd.catalog import load
from virtstatd.collect.descriptions.xml import Describer, parsed_xml
from virtstatd.config.file import parse_config
from virtstatd.errors import ConfigError
from virtstatd.hypervisor.filter import (
    NAME_MAX,
    FilterOptions,
    GuestFilter,
    GuestRule,
    bounded_regex,
    facts_of,
)
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.model import Domain, Reading


NAMES = st.sampled_from(["prod-1", "prod-2", "test-1", "web", "", "a\nb"])
FACTS = st.dictionaries(
    st.sampled_from(["partition", "project_name"]), st.sampled_from(["/prod", "shop", "x"])
)
GLOBS = st.sampled_from(["", "prod-*", "*", "web", "test-?"])
RULES = st.builds(
    GuestRule,
    name=GLOBS,
    regex=st.sampled_from(["", "prod-[0-9]+", "w.b"]),
    partition=st.sampled_from(["", "/pro*", "*"]),
    labels=st.dictionaries(st.just("project_name"), st.sampled_from(["shop", "*"])),
)


def plain(rule: GuestRule, name: str, facts: dict[str, str]) -> bool:
    """Match as the description of a rule says."""
    labels = dict(rule.labels) | ({"partition": rule.partition} if rule.partition else {})
    return (
        (not rule.name or fnmatchcase(name, rule.name))
        and (not rule.regex or re.fullmatch(rule.regex, name) is not None)
        and all(key in facts and fnmatchcase(facts[key], glob) for key, glob in labels.items())
    )


@given(
    include=st.lists(RULES, max_size=3),
    exclude=st.lists(RULES, max_size=3),
    name=NAMES,
    facts=FACTS,
)
def test_a_guest_is_monitored_if_included_and_not_excluded(
    include: list[GuestRule], exclude: list[GuestRule], name: str, facts: dict[str, str]
):
    """With all facts the rules decide; without them the answer is the same, or that it waits."""
    options = FilterOptions(include=tuple(include), exclude=tuple(exclude))
    guests = GuestFilter(options)
    wanted = not include or any(plain(rule, name, facts) for rule in include)
    expected = wanted and not any(plain(rule, name, facts) for rule in exclude)
    assert guests.admits(name, "u", facts) is expected
    assert guests.admits(name, "u") in (expected, None)


def test_uuids_in_any_case():
    """A UUID is one however it is written."""
    rule = GuestRule(uuid="AB*")
    assert rule.matches("x", "abcd", None)
    assert not rule.matches("x", "bbcd", None)


@pytest.mark.parametrize(
    "text",
    [
        "(a+)+b",
        "(?:a|a)*b",
        "(a{1,9}){5}",
        r"(a)\1",
        "(?=a)b",
        "(?P<x>a)(?P=x)",
        ".*.*.*.*x",
        "a{1,5}b*c+d*",
        "[",
        "a" * 201,
        "(((a*)))*",
    ],
)
def test_what_a_name_could_make_slow_is_refused(text: str):
    """Repeated groups, references and many repeats are refused, and what is none at all."""
    with pytest.raises(ValueError, match=r"must|is no"):
        bounded_regex(text)


@pytest.mark.parametrize("text", ["prod-[0-9]+", r"(web|db)-\d+\.example", "[*+{]a*", r"\(a\)*x"])
def test_what_is_allowed_is_that_of_python(text: str):
    """Sets, choices and escapes are as they are."""
    assert bounded_regex(text) == re.compile(text)


@given(st.text("ab.*+?()[]{}|\\^$-1", max_size=14), st.sampled_from(["a", "b", "ab", "a*"]))
def test_no_pattern_that_is_accepted_is_slow(text: str, unit: str):
    """The costliest name of its length is looked at in less CPU time than a call takes."""
    try:
        pattern = bounded_regex(text)
    except ValueError:
        return
    begun = time.thread_time()
    pattern.fullmatch((unit * NAME_MAX)[: NAME_MAX - 1] + "\n")
    assert time.thread_time() - begun < 2


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("exclude = [{ }]", "filter.exclude.0.: must name a name"),
        ('include = [{ name = "" }]', "filter.include.0.: must name a name"),
        ('include = [{ regex = "(a*)*" }]', "filter.include.0..regex: must not repeat"),
        ('include = [{ names = "a" }]', "unknown option, did you mean name"),
        ('include = ["a"]', "must be a table"),
    ],
)
def test_a_wrong_rule_is_a_fault_with_its_line(line: str, fault: str):
    """Each with what helps."""
    with pytest.raises(ConfigError, match=fault) as raised:
        parse_config(f"[filter]\n{line}\n", "f")
    assert raised.value.faults[0].startswith("f:2: ")


def described(domain: Domain, xml: str) -> tuple[Reading, ...]:
    """Return the facts of a guest from its XML."""
    return Describer(load()).readings(domain, parsed_xml(xml))


def test_facts_are_those_of_the_guest():
    """The partition and the labels of metadata, and nothing of a disk."""
    xml = (
        "<domain><title>t</title><resource><partition>/prod</partition></resource><devices>"
        "<disk type='file'><target dev='vda'/><serial>s</serial></disk></devices></domain>"
    )
    facts = facts_of(described(Domain("u", "vm", 1, (("domain", "vm"),)), xml))
    assert facts["partition"] == "/prod"
    assert facts["title"] == "t"
    assert "serial" not in facts


class World:
    """An inventory with a filter, and who it said was gone."""

    def __init__(self, **rules: GuestRule) -> None:
        include, exclude = (
            [rules[name]] if name in rules else [] for name in ("include", "exclude")
        )
        options = FilterOptions(include=tuple(include), exclude=tuple(exclude))
        self.gone: list[str] = []
        self.now = 0.0
        self.inventory = Inventory(lambda: self.now, admission=GuestFilter(options))
        self.inventory.on_gone(lambda domain: self.gone.append(domain.name))

    def describe(self, name: str, project: str | None) -> None:
        """Read the XML of a guest, or fail to."""
        domain = self.inventory.described_as(name)
        assert domain
        xml = (
            "<domain><metadata><n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1'>"
            f"<n:owner><n:project>{project}</n:project></n:owner></n:instance></metadata></domain>"
        )
        self.inventory.describe(domain, described(domain, xml) if project else None)

    def shown(self) -> tuple[list[str], int, int]:
        """Return who is monitored, how many are, and how many are not."""
        assert [each.uuid for each, _ in self.inventory.domains()] == self.inventory.uuids()
        return self.inventory.uuids(), len(self.inventory), self.inventory.filtered()


def test_a_name_decides_at_once():
    """A guest that is left out by name is never described, and counted until it ends."""
    world = World(exclude=GuestRule(name="test-*"))
    assert world.inventory.see("web", "web", 1)
    assert world.inventory.see("t", "test-1", 2) is None
    assert world.inventory.get("t") is None
    assert [each.name for each in world.inventory.take_stale(10)] == ["web"]
    assert world.shown() == (["web"], 1, 1)
    world.inventory.change("t")
    assert world.inventory.take_stale(10) == []
    world.now = 1.0
    world.inventory.reconcile({"web"}, 1.0)
    assert world.shown() == (["web"], 1, 0)
    assert world.gone == []


def test_a_rename_ends_the_series():
    """A guest that is left out under its new name ends, and returns under its old one."""
    world = World(exclude=GuestRule(name="test-*"))
    world.inventory.see("u", "web", 1)
    assert world.inventory.see("u", "test-1", 1) is None
    assert world.gone == ["web"]
    assert world.inventory.see("u", "web", 1)
    assert world.shown() == (["u"], 1, 0)


def test_metadata_decides_when_it_is_read_and_again_when_it_changes():
    """Until then a guest waits; one that is no longer wanted ends, and may come back."""
    world = World(include=GuestRule(labels={"project_name": "shop*"}))
    for name in "a", "b":
        world.inventory.see(name, name, 1)
    assert world.shown() == ([], 0, 2)
    assert len(world.inventory.take_stale(10)) == 2
    world.describe("a", "shop-1")
    world.describe("b", "other")
    assert world.shown() == (["a"], 1, 1)
    assert {each.domain.name for each in world.inventory.descriptions() if each.domain} == {"a"}
    world.inventory.change("a")
    world.inventory.change("b")
    assert len(world.inventory.take_stale(10)) == 2, "an event has both read again"
    world.describe("a", "other")
    world.describe("b", "shop")
    assert world.shown() == (["b"], 1, 1)
    assert world.gone == ["a"]
    world.inventory.restart([("b", "b", 1), ("a", "a", 1)])
    assert world.shown() == (["b"], 1, 1)
    world.inventory.end("a")
    assert world.gone == ["a"], "its series had ended before"


def test_a_guest_that_waits_and_starts_anew_is_counted_once():
    """Another run of a guest waits in place of the one before, and neither has begun to be seen."""
    world = World(include=GuestRule(labels={"project_name": "shop"}))
    world.inventory.see("a", "a", 1)
    waiting = world.inventory.described_as("a")
    assert waiting
    assert world.inventory.begun(waiting, 100) is None
    world.inventory.see("a", "a", 2)
    assert world.shown() == ([], 0, 1)
    world.describe("a", "shop")
    assert world.shown() == (["a"], 1, 0)
    assert world.inventory.begun(waiting, 100) is None
    world.inventory.see("a", "a", 3)
    assert world.shown() == ([], 0, 1)
    world.inventory.end("a", before=1.0)
    assert world.shown() == ([], 0, 0)
    assert world.gone == ["a"]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_guest_that_cannot_be_described_has_no_labels(option: str):
    """Nobody hides by metadata that is too large; a later failure changes nothing."""
    world = World(**{option: GuestRule(labels={"project_name": "*"})})
    for name in "a", "b":
        world.inventory.see(name, name, 1)
    world.describe("a", None)
    world.describe("b", "shop")
    monitored = ["a"] if option == "exclude" else ["b"]
    assert world.shown() == (monitored, 1, 1)
    world.describe("b", None)
    assert world.shown() == (monitored, 1, 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["see", "end", "describe", "fail", "change", "restart"]),
            st.sampled_from(["prod-1", "prod-2", "test-1"]),
            st.integers(1, 3),
        ),
        max_size=30,
    )
)
def test_whatever_happens_nobody_is_shown_who_is_left_out(events: list[tuple[str, str, int]]):
    """Who is monitored was shown as such; ends are told of those alone."""
    world = World(
        include=GuestRule(labels={"project_name": "shop"}), exclude=GuestRule(name="test-*")
    )
    inventory = world.inventory
    shown: dict[str, str] = {}
    for at, (what, name, number) in enumerate(events):
        world.now = float(at)
        known = inventory.described_as(name)
        before, ends = set(inventory.uuids()), len(world.gone)
        if what == "see":
            inventory.see(name, name, number)
        elif what == "end":
            inventory.end(name, before=world.now)
        elif what == "restart":
            inventory.restart([(name, name, number)])
        elif what == "change":
            inventory.change(name)
        elif known:
            read = "shop" if number > 1 else "x" if what == "describe" else None
            world.describe(name, read)
            shown[name] = read or shown.get(name, "")  # a later failure changes nothing
        now = set(inventory.uuids())
        assert "test-1" not in now
        assert all(shown.get(each) == "shop" for each in now)
        assert sorted(before - now) == sorted(world.gone[ends:]) or before & now
        assert len(inventory) == len(now)
        waiting = {each for each in ("prod-1", "prod-2") if inventory.described_as(each)} - now
        assert inventory.filtered() - len(waiting) in (0, 1), "and perhaps test-1"
