"""`python -m virtstatd`, and the script of that name."""

import sys

from virtstatd.service.signals import hold


def start() -> None:
    """Run the command line; a service holds signals back while the rest of it is imported."""
    if sys.argv[1:2] == ["run"]:
        hold()
    if sys.argv[1:2] == ["top"]:  # without libvirt and the rest of the agent: it runs for long
        from virtstatd.commands.top.command import top

        top(sys.argv[2:], prog_name="virtstatd top")
    if sys.argv[1:2] == ["status"]:  # likewise: it runs often
        from virtstatd.commands.status import status

        status(sys.argv[2:], prog_name="virtstatd status")
    from virtstatd.commands.cli import main as command

    command()


if __name__ == "__main__":
    start()
