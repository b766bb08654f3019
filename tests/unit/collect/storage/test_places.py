"""Which storage a disk is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtstatd.collect.storage.places import Here, elsewhere, storage_of


MOUNTS = r"""
22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
23 22 0:40 / /srv/nas\040two rw,relatime shared:2 - nfs4 nas:/export/vms rw,vers=4.2
24 22 253:1 / /var/lib/images rw - xfs /dev/mapper/ssd-images rw
25 22 0:41 / /tmp rw - tmpfs tmpfs rw
26 24 0:42 / /var/lib/images/old rw - nfs old:/a rw
27 24 0:43 / /var/lib/images/old rw - nfs nas:/b rw
28 22 0:44 / /srv/gluster rw - fuse.glusterfs gl1:/vol rw
29 22 0:45 / /srv/ceph rw - ceph 10.0.0.1:6789,10.0.0.2:6789:/vms rw
30 22 0:46 /sub /data rw - zfs tank/vms rw
broken
"""


@pytest.fixture
def here(tmp_path: Path) -> Here:
    """Make a host with mounts, a logical volume, a multipath device and a plain disk."""
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/mountinfo").write_text(MOUNTS)
    for name, uuid, title in (
        ("dm-0", "LVM-abc", "fast--ssd-vm--one"),
        ("dm-1", "mpath-3600", "mpatha"),
        ("dm-2", "CRYPT-LUKS2-x", "secret"),
    ):
        folder = tmp_path / f"sys/class/block/{name}/dm"
        folder.mkdir(parents=True)
        (folder / "uuid").write_text(f"{uuid}\n")
        (folder / "name").write_text(f"{title}\n")
    return Here(tmp_path / "proc", tmp_path / "sys")


@pytest.mark.parametrize(
    ("kind", "place", "more", "storage"),
    [
        ("volume", "ssd/vm/1.img", {}, ("pool", "ssd")),
        ("network", "vms/a", {"source_protocol": "rbd"}, ("rbd", "vms")),
        ("network", "vms/space/a", {"source_protocol": "rbd"}, ("rbd", "vms")),
        ("network", "vol/a.img", {"source_protocol": "gluster"}, ("gluster", "vol")),
        (
            "network",
            "iqn.2013-07.com:t/1",
            {"source_protocol": "iscsi"},
            ("iscsi", "iqn.2013-07.com:t"),
        ),
        ("network", "/run/nbd.sock", {"source_protocol": "nbd"}, ("nbd", "/run/nbd.sock")),
        ("network", "192.0.2.1:10809", {}, ("network", "192.0.2.1:10809")),
        ("nvme", "0000:01:1f.7", {}, ("nvme", "0000:01:1f.7")),
        ("vhostuser", "/var/tmp/vhost.0", {}, ("vhostuser", "/var/tmp/vhost.0")),
        ("file", "/var/lib/images/a.img", {}, ("xfs", "/dev/mapper/ssd-images")),
        ("file", "/var/lib/images2/a.img", {}, ("ext4", "/dev/sda2")),
        ("file", "/var/lib/images/old/a.img", {}, ("nfs", "nas:/b")),
        ("file", "/srv/nas two/a.img", {}, ("nfs4", "nas:/export/vms")),
        ("file", "/srv/gluster/a/b.img", {}, ("fuse.glusterfs", "gl1:/vol")),
        ("file", "/srv/ceph/b.img", {}, ("ceph", "10.0.0.1:6789,10.0.0.2:6789:/vms")),
        ("file", "/data/b.img", {}, ("zfs", "tank/vms")),
        ("file", "/tmp/b.img", {}, ("tmpfs", "/tmp")),
        ("dir", "/data/d", {}, ("zfs", "tank/vms")),
        ("block", "/dev/sdb", {}, ("device", "/dev/sdb")),
        ("block", "/dev/rbd/vms/a", {}, ("rbd", "vms")),
        ("block", "/dev/dm-0", {}, ("lvm", "fast-ssd")),
        ("block", "/dev/dm-1", {}, ("multipath", "mpatha")),
        ("block", "/dev/dm-2", {}, ("device", "secret")),
        ("newkind", "somewhere", {}, ("newkind", "somewhere")),
        ("", "somewhere", {}, ("unknown", "somewhere")),
        ("file", "", {}, None),
    ],
)
def test_each_kind_of_disk_has_a_storage(
    here: Here, kind: str, place: str, more: dict[str, str], storage: tuple[str, str] | None
):
    """Whatever libvirt accepts as a source; a kind of later versions is its own storage."""
    assert storage_of({"disk_type": kind, "source_file": place, **more}, here) == storage


def test_links_are_followed_to_the_mount(tmp_path: Path):
    """An image behind a link is on the storage that the link leads to; a far one is not touched."""
    far, near = tmp_path / "far", tmp_path / "near"
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(
        "1 1 8:2 / / rw - ext4 /dev/sda2 rw\n"
        f"2 1 0:1 / {far} rw - nfs nas:/x rw\n3 1 0:2 / {near} rw - xfs /dev/sdb rw\n"
    )
    far.mkdir()
    near.mkdir()
    (far / "loop").symlink_to(near)  # would be followed if it were looked at
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(far / "loop")
    (tmp_path / "here").symlink_to(near / "images")
    (tmp_path / "round").symlink_to("round")
    here = Here(tmp_path / "proc", tmp_path / "sys")
    assert here("file", f"{tmp_path}/one/a.img") == ("nfs", "nas:/x")
    assert here("file", f"{tmp_path}/./here/../here/a.img") == ("xfs", "/dev/sdb")
    assert here("file", f"{tmp_path}/round/a.img") == ("ext4", "/dev/sda2")


def test_another_host_has_only_its_paths(tmp_path: Path):
    """Without the host's mounts a file's directory and a device's path tell storages apart."""
    assert elsewhere("file", "/var/lib/images/a.img") == ("directory", "/var/lib/images")
    assert elsewhere("block", "/dev/sdb") == ("device", "/dev/sdb")
    assert Here(tmp_path, tmp_path)("file", "/a/b.img") == ("directory", "/a")
