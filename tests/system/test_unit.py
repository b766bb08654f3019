"""The unit and its drop-ins, judged by systemd's own tools; no running systemd is needed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from support.servers import needs
from virtstatd.service import web


SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "virtstatd.service"
SOCKET = SYSTEMD / "virtstatd.socket"
DROP_INS = sorted(SYSTEMD.glob("drop-ins/*.conf"))
APPARMOR = SYSTEMD / "apparmor" / "virtstatd"
EXECUTABLE = "/opt/virtstatd/bin/virtstatd"
TENTHS = {"localhost-only": 11, "no-proc": 11, "libvirt-group": 13}
"""What a drop-in may score, in tenths; the unit and all others 12. A group costs a tenth."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEEDED = _words(
    """
    accept4 access arch_prctl bind brk clock_gettime clone3 close connect dup2 epoll_create1
    epoll_ctl epoll_pwait eventfd2 execve exit fcntl fdatasync flock fstat fstatfs fsync ftruncate
    futex get_mempolicy getcwd getdents64 getegid geteuid getgid getpeername getpid getrandom
    getsockname getsockopt gettid getuid ioctl kill listen lseek madvise memfd_create mkdir mmap
    mprotect mremap munmap newfstatat open openat pipe2 poll prctl pread64 prlimit64 pwrite64 read
    readlink recvfrom recvmsg rename rseq rt_sigaction rt_sigprocmask rt_sigtimedwait
    sched_getaffinity sendto set_robust_list set_tid_address setsockopt sigaltstack socket
    socketpair stat statfs sysinfo times uname unlink write
    """
)
"""What strace saw of an agent with every sink, failing and succeeding, through a reload."""

OF_OTHERS = _words(
    """
    clock_nanosleep clone close_range copy_file_range dup dup3 epoll_create epoll_pwait2 epoll_wait
    exit_group faccessat faccessat2 fork futex_waitv getrusage gettimeofday inotify_add_watch
    inotify_init1 lstat membarrier mkdirat nanosleep pause pipe ppoll preadv pselect6 pwritev
    pwritev2 readlinkat readv recvmmsg rename renameat renameat2 rmdir rt_sigreturn sched_yield
    select sendfile sendmmsg sendmsg shutdown statx symlink tgkill timerfd_create timerfd_settime
    truncate umask unlinkat utimensat vfork wait4 waitid writev
    """
)
"""What other releases of the C library, Python and libuv call in their place."""

FORBIDDEN = _words(
    """
    add_key bpf chroot init_module io_setup io_uring_enter io_uring_setup kexec_load keyctl
    mknod mount open_by_handle_at perf_event_open pivot_root process_vm_readv process_vm_writev
    ptrace reboot setns setuid swapon umount2 unshare userfaultfd vmsplice
    """
)

pytestmark = needs("systemd-analyze")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze and keep what it says."""
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False
    )


def settings(text: str) -> dict[str, list[str]]:
    """Return every value of every directive, in the order of the file."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(params=[None, *DROP_INS], ids=lambda path: path.stem if path else "unit")
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Install the unit alone, or with one drop-in, around an executable that exists."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(EXECUTABLE, "/bin/true"))
    if request.param:
        folder = tmp_path / f"{UNIT.name}.d"
        folder.mkdir()
        shutil.copy(request.param, folder)
    return unit


def test_systemd_accepts_every_line(installed: Path):
    """The unit and each drop-in pass systemd's own check without a single remark."""
    verified = analyze("verify", "--man=no", installed)
    remarks = [line for line in verified.stderr.splitlines() if UNIT.name in line]  # not of others
    assert (verified.returncode, remarks) == (0, [])


def test_the_socket_is_the_one_that_the_agent_looks_for(tmp_path: Path):
    """The socket's unit passes too, and has the name by which the agent takes the socket over."""
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace(EXECUTABLE, "/bin/true"))
    unit = tmp_path / SOCKET.name
    unit.write_text(SOCKET.read_text())
    verified = analyze("verify", "--man=no", unit)
    remarks = [line for line in verified.stderr.splitlines() if SOCKET.name in line]
    assert (verified.returncode, remarks) == (0, [])
    assert settings(SOCKET.read_text())["FileDescriptorName"] == [web.UNIT]


def test_an_unknown_directive_would_be_noticed(installed: Path):
    """The check above can fail: a misspelt directive is a remark."""
    installed.write_text(installed.read_text().replace("WatchdogSec=", "WatchDogSec="))
    assert "WatchDogSec" in analyze("verify", "--man=no", installed).stderr


def test_exposure_stays_small(installed: Path):
    """The sandbox scores 1.2 or better (0 is best, 10 is none); each drop-in has its own score."""
    (name,) = [path.stem for path in installed.parent.glob("*.d/*")] or ["unit"]
    most = TENTHS.get(name, 12)
    judged = analyze("security", "--offline=true", f"--threshold={most}", installed)
    assert judged.returncode == 0, judged.stdout.splitlines()[-1]
    print(f"{name}: {judged.stdout.splitlines()[-1]}")


@needs("apparmor_parser")
def test_the_profile_of_apparmor_compiles():
    """AppArmor's own compiler takes the profile; whether it fits is for a host that enforces it."""
    compiled = subprocess.run(
        ["apparmor_parser", "--skip-kernel-load", "--skip-cache", "--abort-on-error", APPARMOR],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr
    assert "error" not in compiled.stderr.casefold()


def allowed(lines: list[str]) -> set[str]:
    """Return the system calls that the lines of `SystemCallFilter=` leave, by systemd's groups."""
    found: set[str] = set()
    for line in lines:
        names = {name for word in line.lstrip("~").split() for name in calls(word)}
        found = found - names if line.startswith("~") else found | names
    return found


def calls(word: str) -> set[str]:
    """Return the system calls of a group, down to the groups in it, or the one itself."""
    if not word.startswith("@"):
        return {word}
    listed = analyze("syscall-filter", word).stdout.splitlines()[1:]
    return {
        name
        for line in listed
        if (each := line.strip())[:1] not in ("", "#")
        for name in calls(each)
    }


def test_the_agent_may_call_what_it_needs_and_nothing_that_attackers_do():
    """The filter leaves what was seen and what other releases use, and less than its base."""
    lines = settings(UNIT.read_text())["SystemCallFilter"]
    left, base = allowed(lines), allowed(lines[:1])
    print(f"{len(NEEDED)} calls seen, {len(left)} allowed of {len(base)}")
    assert left >= NEEDED | OF_OTHERS
    assert not FORBIDDEN & left
    assert len(left) < len(base)


def test_exposure_would_be_noticed(installed: Path):
    """The check above can fail: without its capability bounding set the unit scores worse."""
    installed.write_text(installed.read_text().replace("CapabilityBoundingSet=\n", ""))
    assert analyze("security", "--offline=true", "--threshold=13", installed).returncode != 0


def test_nothing_but_a_wrong_configuration_ends_the_restarts():
    """However the agent ends, it is started again, without limit; only 78 ends that."""
    unit = settings(UNIT.read_text())
    assert unit["Restart"] == ["always"]
    assert unit["RestartPreventExitStatus"] == ["78"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert "StartLimitBurst" not in unit
    assert unit["RestartSec"] == ["5s"]


def test_a_reload_checks_before_it_signals():
    """A reload runs `check` first, so a bad file never reaches the running agent."""
    check, signal = settings(UNIT.read_text())["ExecReload"]
    assert check == f"{EXECUTABLE} check"
    assert signal == "/bin/kill -HUP $MAINPID"


def test_nothing_is_privileged():
    """The unit asks for no capability, no group and no account of the host."""
    unit = settings(UNIT.read_text())
    assert unit["DynamicUser"] == ["yes"]
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
    assert "SupplementaryGroups" not in unit
