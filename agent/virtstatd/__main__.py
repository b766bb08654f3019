"""`python -m virtstatd`, and the script of that name."""

import sys

from virtstatd.service.signals import hold


def start() -> None:
    """Run the command line; a service holds signals back while the rest of it is imported."""
    if sys.argv[1:2] == ["run"]:
        hold()
    if sys.argv[1:2] == ["top"]:  # it runs for long: without libvirt and the rest of the agent
        from virtstatd.commands.top.command import top

        top(sys.argv[2:], prog_name="virtstatd top")
    from virtstatd.commands.cli import main as command

    command()


if __name__ == "__main__":
    start()
