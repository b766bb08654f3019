"""
The live guest's kernel and initial file system, made from Debian packages without installing them.

The result is kept under `build/lab`, named for what it was made from, so only the first lab of a
checkout downloads anything.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.support.machine import LabError


CACHE = Path(__file__).parents[3] / "build" / "lab"
INIT = Path(__file__).with_name("init.sh")
BUSYBOX = Path("/bin/busybox")
KERNEL_PACKAGE = "linux-image-cloud-amd64"
AGENT_PACKAGE = "qemu-guest-agent"

# In the order of their dependencies; what is built into the kernel is simply not found.
MODULES = (
    "failover",
    "net_failover",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "virtio_console",
)

ON_DEMAND = ("crc16", "mbcache", "jbd2", "ext4")
"""Modules that lie beside them, in this order too, for a test that needs a file system."""


@dataclass(frozen=True, slots=True)
class System:
    """What a live guest boots: files for `<kernel>` and `<initrd>`."""

    kernel: Path
    initrd: Path

    @property
    def agent(self) -> bool:
        """Whether a guest agent is in it."""
        return self.initrd.with_name("agent").exists()


def system() -> System:
    """Return the live guest's system, made at the first call of a checkout."""
    made_from = INIT.read_bytes() + Path(__file__).read_bytes()
    directory = CACHE / hashlib.sha256(made_from).hexdigest()[:12]
    if not directory.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            made = _make(Path(work))
            try:
                made.rename(directory)
            except OSError:
                if not directory.exists():  # else another lab was faster
                    raise
    return System(directory / "vmlinuz", directory / "initrd")


def _make(work: Path) -> Path:
    made, root = work / "made", work / "root"
    made.mkdir()
    kernel, modules = _kernel(work)
    shutil.copy(kernel, made / "vmlinuz")
    for name in ("bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp", "var/run"):
        (root / name).mkdir(parents=True)
    found = {path.name.partition(".")[0]: path for path in modules.rglob("*.ko*")}
    order = [found[name] for name in MODULES if name in found]
    for path in (*order, *(found[name] for name in ON_DEMAND if name in found)):
        _unpacked(path, root / "modules")
    names = "".join(f"{path.name.partition('.')[0]}.ko\n" for path in order)
    (root / "modules/order").write_text(names)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    shutil.copy(INIT, root / "init")
    (root / "init").chmod(0o755)
    if _add_agent(work, root):
        (made / "agent").touch()
    packed = subprocess.run(
        [BUSYBOX, "sh", "-c", "find . | busybox cpio -o -H newc"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    (made / "initrd").write_bytes(gzip.compress(packed.stdout, 1))
    return made


def _kernel(work: Path) -> tuple[Path, Path]:
    """Return a kernel's file and the directory of its modules: Debian's, else one installed."""
    depends = _output(["apt-cache", "depends", KERNEL_PACKAGE])
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    if package and (files := _extracted(work, package[1])):
        return next(files.glob("boot/vmlinuz-*")), next(files.glob("lib/modules/*"))
    for kernel in sorted(Path("/boot").glob("vmlinuz-*"), reverse=True):
        modules = Path("/lib/modules") / kernel.name.removeprefix("vmlinuz-")
        if modules.exists():
            return kernel, modules
    raise LabError(
        f"no kernel for the live guest: `apt-get download {KERNEL_PACKAGE}` failed and no kernel"
        " with its modules is installed; run `apt-get update` with a network"
    )


def _add_agent(work: Path, root: Path) -> bool:
    """Add the guest agent and its libraries, as far as this machine has them."""
    files = _extracted(work, AGENT_PACKAGE)
    if not files:
        return False
    agent = files / "usr/sbin/qemu-ga"
    libraries = _output(["ldd", str(agent)])
    if not libraries or "not found" in libraries:
        return False
    shutil.copy(agent, root / "bin/qemu-ga")
    for library in map(Path, re.findall(r"(/\S+) \(0x", libraries)):
        target = root / library.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    return True


def _extracted(work: Path, package: str) -> Path | None:
    """Download a package and return the directory of its files; nothing is installed."""
    files = work / package
    files.mkdir()
    subprocess.run(["apt-get", "download", package], cwd=files, capture_output=True, check=False)
    for archive in files.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, files], check=True)
        return files
    return None


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def _unpacked(module: Path, directory: Path) -> None:
    """Copy a module, uncompressed: busybox's insmod takes no other."""
    target = directory / f"{module.name.partition('.')[0]}.ko"
    unpack = {".xz": "xzcat", ".gz": "zcat", ".zst": "zstdcat"}.get(module.suffix)
    if unpack:
        target.write_bytes(subprocess.run([unpack, module], capture_output=True, check=True).stdout)
    else:
        shutil.copy(module, target)
