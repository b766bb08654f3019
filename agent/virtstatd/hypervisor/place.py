"""The directory of the guests' pid files, by libvirt's URI."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit


DIRECTORIES = (Path("/run/libvirt"), Path("/var/run/libvirt"))


class Elsewhere(ValueError):  # noqa: N818 - a fact about the URI
    """The guests do not run on this host, or are those of a session; the message says which."""


def pid_files(uri: str, directories: tuple[Path, ...] = DIRECTORIES) -> Path:
    """
    Return the directory of the pid files of QEMU's guests: `qemu` beside libvirt's socket.

    Raises `Elsewhere`.
    """
    parts = urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if driver != "qemu":
        raise Elsewhere(f"the driver {driver} has no processes that could be read")
    if parts.netloc or transport not in ("", "unix"):
        raise Elsewhere("the hypervisor is remote")
    if parts.path != "/system":
        raise Elsewhere("the guests are those of a session")
    sockets = parse_qs(parts.query).get("socket", ())
    if sockets:
        return Path(sockets[0]).parent / "qemu"
    return next((each for each in directories if each.is_dir()), directories[0]) / "qemu"
