"""What `doctor` says of the groups that the kernel collector reads."""

from __future__ import annotations

from virtstatd.collect.bulk.options import ExtraOptions, MonitorOptions, PollOptions
from virtstatd.commands.doctor.told import told_checks


COUNTS = {"interface": 2, "cpu_total": 3, "balloon": 0, "vcpu": 3}


def test_each_group_has_its_guests():
    """By default each group that may be spared is a line, with how often libvirt is polled."""
    poll = PollOptions(extra=ExtraOptions(interval_seconds=90))
    checks = list(told_checks(poll, COUNTS, 3))

    assert {(each.what, each.state, each.fix) for each in checks} == {("sources", "ok", "")}
    assert [each.text for each in checks] == [
        f"{group}: the kernel has nearly all of it for {count} of 3 guests,"
        f" libvirt is polled for it every {270 if group == 'balloon' else 90} s"
        for group, count in COUNTS.items()
    ]


def test_groups_that_the_file_names_have_a_note():
    """Where a file's list costs polls, the line says what to leave out; others have none."""
    poll = PollOptions(monitor=MonitorOptions(groups=("vcpu", "balloon")))
    checks = {each.text.partition(":")[0]: each for each in told_checks(poll, COUNTS, 3)}

    assert {group: each.state for group, each in checks.items()} == {
        "interface": "ok",
        "vcpu": "note",
    }
    assert checks["vcpu"].text.endswith("for 3 of 3 guests, libvirt is polled for all")
    assert checks["vcpu"].fix == (
        "leave out [poll.monitor] groups, and libvirt is polled every 60 s"
    )


def test_a_kernel_that_shows_nothing_is_counted_as_such():
    """Where nothing can be spared each group has no guest."""
    assert all("for 0 of 7 guests," in each.text for each in told_checks(PollOptions(), {}, 7))
