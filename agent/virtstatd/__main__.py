"""`python -m virtstatd`."""

from virtstatd.commands.cli import main


if __name__ == "__main__":
    main()
