"""The service under a real systemd: the unit as shipped, its sandbox, and its whole life."""

import json
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from support.servers import needs
from system.support.machine import Machine, until
from system.support.service import (
    CONFIGURATION,
    NAME,
    NEEDS,
    REPOSITORY,
    override,
    scrape,
    start,
)


EXPORTER = "prometheus-node-exporter"
FETCH = ("curl", "--silent", "http://127.0.0.1:9100/metrics")
ACCOUNT = REPOSITORY / "systemd" / "sysusers.d" / "virtstatd.conf"

pytestmark = NEEDS


def test_the_service_is_ready_when_its_start_returns(machine: Machine):
    """READY comes with the endpoint bound: the first scrape after the start is answered."""
    start(machine)
    lines = scrape(machine)
    shown = machine.show(NAME)
    assert any(line.startswith("libvirt_up ") for line in lines)
    assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
    assert shown["StatusText"]
    assert shown["NRestarts"] == "0"


def test_the_service_has_no_account_of_the_host(machine: Machine):
    """The process runs as a user that exists only while it does, without any capability."""
    start(machine)
    status = machine.run("cat", f"/proc/{machine.show(NAME)['MainPID']}/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert 61184 <= int(fields["Uid"].split()[0]) <= 65519  # systemd's range of dynamic users
    assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


def test_an_account_of_that_name_is_used(machine: Machine):
    """Where the shipped sysusers.d file was applied, files get one owner for good."""
    machine.write("/etc/sysusers.d/virtstatd.conf", ACCOUNT.read_text())
    machine.run("systemd-sysusers", "/etc/sysusers.d/virtstatd.conf")
    account = machine.run("id", "--user", "virtstatd").stdout.strip()
    start(machine)
    owner = machine.run("stat", "--format=%u", f"/proc/{machine.show(NAME)['MainPID']}").stdout
    machine.run("systemctl", "stop", NAME)
    machine.run("userdel", "virtstatd")
    assert owner.strip() == account


@pytest.mark.needs("prometheus-node-exporter")
@pytest.mark.parametrize("account", ["dynamic", "fixed"])
def test_node_exporter_gets_its_file(machine: Machine, account: str):
    """With the drop-in alone Debian's node_exporter has the guests; files of others are safe."""
    folder = "/var/lib/prometheus/node-exporter"
    drop_in = (REPOSITORY / "systemd/drop-ins/textfile.conf").read_text()
    if account == "fixed":
        machine.write("/etc/sysusers.d/virtstatd.conf", ACCOUNT.read_text())
        machine.run("systemd-sysusers", "/etc/sysusers.d/virtstatd.conf")
    machine.run("install", "--directory", "--owner=root", "--group=root", "--mode=755", folder)
    machine.write(f"{folder}/of_root.prom", "of_root 1\n")
    machine.write(CONFIGURATION, '[[sink]]\ntype = "textfile"\n')
    override(machine, *drop_in.splitlines())
    start(machine)
    machine.run("systemctl", "start", EXPORTER)
    until(lambda: "libvirt_up" in machine.run(*FETCH, check=False).stdout, "the file's numbers")
    assert "of_root 1" in machine.run(*FETCH).stdout
    process = f"/proc/{machine.show(NAME)['MainPID']}"
    agent = machine.run("stat", "--format=--reuid=%u --regid=%g", process).stdout.split()
    remove = ("setpriv", *agent, "--clear-groups", "rm", f"{folder}/of_root.prom")
    assert "not permitted" in machine.run(*remove, check=False).stderr
    machine.run("systemctl", "stop", NAME, EXPORTER)
    assert machine.run("ls", folder).stdout.split() == ["of_root.prom"]
    assert machine.run("stat", "--format=%U", folder).stdout.strip() == "root"
    if account == "fixed":
        machine.run("userdel", "virtstatd")


def test_every_sink_works_under_the_filter(machine: Machine):
    """With all sinks at once nothing that the agent tries is forbidden, and files are written."""
    kept = "/var/lib/virtstatd"
    special = {
        "jsonl": f"target = '{kept}/lines'\n",
        "parquet": f"directory = '{kept}/archive'\nflush_seconds = 1\n",
        "postgres": "password_file = 'credential:token'\n",
        "textfile": f"path = '{kept}/virtstatd.prom'\n",
    }
    tables = ["[hypervisor]\nuri = 'test:///default'\n[agent]\ninterval_seconds = 1\n"]
    for entry in sorted(entry_points(group="virtstatd.sinks"), key=lambda each: each.name):
        tables.append(f"[[sink]]\ntype = '{entry.name}'\n{special.get(entry.name, '')}")
        if entry.name in ("influx", "remote_write", "kafka", "nats", "mqtt"):
            tables.append("spool_bytes = 1048576\n")
    machine.write(CONFIGURATION, "".join(tables))
    machine.write("/etc/virtstatd/credentials/token", "secret", 0o600)
    override(machine, "LoadCredential=token:/etc/virtstatd/credentials/token")
    start(machine)
    until(lambda: "libvirt_up 1" in scrape(machine), "libvirt_up 1")
    for path in ("lines", "archive/", "virtstatd.prom", "spool"):
        found = ("find", f"/var/lib/private/virtstatd/{path}", "-type", "f", "-size", "+0")
        until(lambda: machine.run(*found, check=False).stdout, path)  # noqa: B023
    machine.run("systemctl", "reload", NAME)
    until(lambda: "libvirt_up 1" in scrape(machine), "libvirt_up 1")
    machine.run("systemctl", "stop", NAME)
    assert machine.show(NAME)["Result"] == "success"
    assert not [line for line in machine.journal(NAME) if "not permitted" in line]


def test_what_the_sandbox_lets_be_written_it_does_not_let_run(machine: Machine):
    """Inside, the host's files are read-only, and no folder that is not can hold a program."""
    start(machine)
    inside = ("nsenter", f"--target={machine.show(NAME)['MainPID']}", "--mount")
    for folder in ("/var/lib/virtstatd", "/run/virtstatd", "/tmp", "/var/tmp", "/dev/shm"):
        machine.run(*inside, "cp", "/bin/true", f"{folder}/program")
        refused = machine.run(*inside, f"{folder}/program", check=False)
        assert "Permission denied" in refused.stderr
    for folder in ("/etc/virtstatd", "/opt/virtstatd", "/usr", "/sys/fs/cgroup"):
        refused = machine.run(*inside, "touch", f"{folder}/new", check=False)
        assert "Read-only file system" in refused.stderr


@needs("libvirtd")
def test_the_sandbox_leaves_the_way_to_libvirt_open(machine: Machine):
    """A user without any group opens libvirt's read-only socket from inside the sandbox."""
    machine.run("systemctl", "stop", "libvirtd*.socket")  # where the host has its units
    machine.write("/run/hypervisor.conf", 'auth_unix_ro = "none"\n')
    machine.run("useradd", "--system", "libvirt-qemu", check=False)  # libvirt looks for it
    machine.run("systemd-run", "--unit=hypervisor", "libvirtd", "--config=/run/hypervisor.conf")
    start(machine)
    until(lambda: "libvirt_up 1" in scrape(machine), "libvirt_up 1")
    machine.run("systemctl", "stop", "hypervisor")


def test_the_journal_is_json(machine: Machine):
    """Every line of the journal is one JSON object with an event."""
    start(machine)
    machine.run("systemctl", "stop", NAME)
    lines = machine.journal(NAME)
    assert lines
    assert all(json.loads(line)["event"] for line in lines)


def test_a_stop_drains_and_ends_well(machine: Machine):
    """SIGTERM ends the service by itself, with exit code 0, and it stays stopped."""
    start(machine)
    machine.run("systemctl", "stop", NAME)
    shown = machine.show(NAME)
    assert (shown["ActiveState"], shown["Result"]) == ("inactive", "success")
    assert (shown["ExecMainCode"], shown["ExecMainStatus"]) == ("1", "0")  # exited by itself


def test_a_reload_keeps_the_process(machine: Machine):
    """A reload takes the new file in the same process, and the endpoint answers after it."""
    start(machine)
    before = machine.show(NAME)
    machine.write(CONFIGURATION, '[hypervisor]\nuri = "test:///default"\n')
    machine.run("systemctl", "reload", NAME)
    until(lambda: "libvirt_up 1" in scrape(machine), "the numbers of the other hypervisor")
    after = machine.show(NAME)
    assert after["ActiveState"] == "active"
    assert (after["MainPID"], after["NRestarts"]) == (before["MainPID"], "0")


def test_reloads_in_each_others_way_keep_the_process(machine: Machine):
    """Reloads one upon the other, and signals that mean nothing, leave the same process running."""
    start(machine)
    before = machine.show(NAME)
    reload = f"systemctl reload {NAME}"
    machine.run("sh", "-c", f"{reload} & {reload}; systemctl kill --kill-whom=main -s HUP {NAME}")
    for number in ("HUP", "USR1", "USR2", "ALRM", "PIPE", "RTMIN+5"):
        machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={number}", NAME)
    machine.run("systemctl", "reload", NAME)
    until(lambda: scrape(machine), "the page")
    after = machine.show(NAME)
    assert after["ActiveState"] == "active"
    assert (after["MainPID"], after["NRestarts"]) == (before["MainPID"], "0")


def test_a_reload_that_cannot_work_here_changes_nothing(machine: Machine):
    """A secret that is not there fails the reload, with its line; the agent runs on as it was."""
    start(machine)
    before = machine.show(NAME)
    machine.write(CONFIGURATION, '[[sink]]\ntype = "influx"\ntoken_file = "/none/token"\n')
    assert machine.run("systemctl", "reload", NAME, check=False).returncode != 0
    assert any(f"{CONFIGURATION}:3: sink[0].token_file" in line for line in machine.journal(NAME))
    after = machine.show(NAME)
    assert (after["ActiveState"], after["MainPID"]) == ("active", before["MainPID"])
    assert scrape(machine)


def test_no_signal_ends_it_for_good(machine: Machine):
    """An agent that is killed, or stopped by hand behind systemd's back, is started again."""
    override(machine, "RestartSec=100ms")
    start(machine)
    for times, number in enumerate(("KILL", "TERM", "INT", "QUIT"), 1):
        machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={number}", NAME)
        until(lambda: machine.show(NAME)["NRestarts"] == str(times), "a restart")  # noqa: B023
        until(lambda: machine.show(NAME)["SubState"] == "running", "a new process")


@pytest.mark.parametrize("number", ["SEGV", "ABRT"])
def test_a_crash_leaves_no_memory_behind(machine: Machine, number: str):
    """However it crashes, the kernel may write no core: secrets are in it. The stack is logged."""
    override(machine, "RestartSec=100ms")
    start(machine)
    pid = machine.show(NAME)["MainPID"]
    limits = machine.run("cat", f"/proc/{pid}/limits").stdout
    assert re.search(r"Max core file size +0 +0 ", limits)
    machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={number}", NAME)
    until(lambda: machine.show(NAME)["NRestarts"] == "1", "a restart")
    until(lambda: machine.show(NAME)["SubState"] == "running", "a new process")
    assert any("Fatal Python error" in line for line in machine.journal(NAME))
    folders = ("/var/lib/virtstatd/", "/run/virtstatd/", "/var/lib/systemd/coredump/")
    written = machine.run("find", "/", "-maxdepth", "1", "-name", "core*").stdout
    for folder in folders:
        written += machine.run("find", folder, "-name", "core*", "-type", "f", check=False).stdout
    assert [line for line in written.splitlines() if not line.endswith(".py")] == []


def test_a_reload_of_a_bad_file_changes_nothing(machine: Machine):
    """A reload with a wrong file fails and says where; the agent runs on as it was."""
    start(machine)
    before = machine.show(NAME)
    machine.write(CONFIGURATION, "[hypervisor]\nno_such_option = 1\n")
    assert machine.run("systemctl", "reload", NAME, check=False).returncode != 0
    assert any(f"{CONFIGURATION}:2" in line for line in machine.journal(NAME))
    after = machine.show(NAME)
    assert (after["ActiveState"], after["MainPID"]) == ("active", before["MainPID"])
    assert scrape(machine)


def test_a_wrong_configuration_stops_for_good(machine: Machine):
    """A start with a wrong file ends with 78, names the line, and is not tried again."""
    machine.write(CONFIGURATION, "[hypervisor]\nno_such_option = 1\n")
    assert machine.run("systemctl", "start", NAME, check=False).returncode != 0
    shown = machine.show(NAME)
    assert (shown["ActiveState"], shown["SubState"]) == ("failed", "failed")
    assert (shown["ExecMainStatus"], shown["NRestarts"]) == ("78", "0")
    assert any(f"{CONFIGURATION}:2" in line for line in machine.journal(NAME))


def test_a_frozen_process_is_replaced(machine: Machine):
    """The watchdog aborts a process that stands still, and a new one takes its place."""
    override(machine, "WatchdogSec=2s", "RestartSec=100ms")
    start(machine)
    frozen = machine.show(NAME)["MainPID"]
    machine.run("kill", "-STOP", frozen)
    until(lambda: machine.show(NAME)["NRestarts"] == "1", "a restart")
    until(lambda: machine.show(NAME)["SubState"] == "running", "a new process")
    assert machine.show(NAME)["MainPID"] != frozen
    assert scrape(machine)
    assert any("Fatal Python error: Aborted" in line for line in machine.journal(NAME))


def test_the_watchdog_is_fed(machine: Machine):
    """Over three watchdog periods a healthy service is not restarted."""
    override(machine, "WatchdogSec=1s")
    start(machine)
    begun = int(machine.show(NAME)["ExecMainStartTimestampMonotonic"])

    def fed_for_three_periods() -> bool:
        shown = machine.show(NAME)
        assert shown["NRestarts"] == "0"
        return int(shown["WatchdogTimestampMonotonic"]) > begun + 3_000_000

    until(fed_for_three_periods, "three periods")


@pytest.mark.parametrize(
    "drop_in", sorted(REPOSITORY.glob("systemd/drop-ins/*.conf")), ids=lambda path: path.stem
)
def test_the_agent_runs_under_every_drop_in(machine: Machine, drop_in: Path):
    """Each drop-in leaves a service that starts, answers and reaches libvirt's test driver."""
    machine.write(CONFIGURATION, '[hypervisor]\nuri = "test:///default"\n')
    machine.write("/etc/virtstatd/credentials/token", "secret", 0o600)
    machine.run("groupadd", "--force", "--system", "libvirt")
    override(machine, *drop_in.read_text().split("[Service]\n")[1].splitlines())
    start(machine)
    until(lambda: "libvirt_up 1" in scrape(machine), "libvirt_up 1")
