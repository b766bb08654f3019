"""Guests that move from one lab to another."""

from lab.support.hypervisor import Lab


def migration(here: Lab, there: Lab, uuid: str) -> list[str]:
    """Return the command that moves a guest to another lab, which can reach its disks."""
    socket = there.directory / "run/migration.sock"
    where = [uuid, there.uri, "--migrateuri", f"unix://{socket}"]
    return ["virsh", "-c", here.uri, "migrate", "--live", "--p2p", "--unsafe", *where]
