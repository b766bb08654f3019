"""A real disk that is full: seen in error, with the reason."""

from __future__ import annotations

from pathlib import Path

from lab.support import kernel
from lab.support.guest import disk
from lab.support.hypervisor import Lab
from lab.support.machine import wait_until
from support.agent import running


ON = "[disk_errors]\nenabled = true\ninterval_seconds = 1\n"
FILL = 'truncate -s 8M "$0/a.raw"; head -c 1M /dev/zero > "$0/fill" 2>/dev/null; true'


def test_a_full_disk_is_in_error(lab: Lab, tmp_path: Path):
    """A guest whose image has no room left is paused by QEMU: its disk is named, no other is."""
    full = lab.images / "full"
    lab.run("mkdir", str(full))
    lab.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full))
    lab.run("sh", "-c", FILL, str(full))
    vda = f"<devices>{disk(full / 'a.raw', 'vda')}</devices>"
    guest = lab.definition(
        "full",
        kvm=False,
        vcpus=1,
        memory_mib=128,
        disks=0,
        extra=vda,
        system=kernel.system(),
        cmdline="lab.net=10.9.200",
    )
    try:
        lab.create(guest, paused=False)
        wait_until(lambda: "paused" in lab.virsh("domstate", guest.uuid), "the guest to be paused")
        with running(tmp_path, lab.uri_readonly, hypervisor=ON) as agent:

            def count(name: str) -> float | None:
                return agent.value("libvirt_domain_block_stats_disks_in_error", domain=name)

            agent.wait_for(lambda: count("full") == 1)
            reason = agent.value(
                "libvirt_domain_block_stats_error_info",
                domain="full",
                target_device="vda",
                error="no_space",
            )
            assert reason == 1
            agent.wait_for(lambda: count("guest-0") == 0)
    finally:
        lab.destroy("full")
        lab.run("umount", str(full))
        lab.run("rmdir", str(full))
