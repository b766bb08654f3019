"""`python -m virtstatd`."""

from virtstatd.cli import main


if __name__ == "__main__":
    main()
