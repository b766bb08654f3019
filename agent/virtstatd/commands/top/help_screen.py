"""The keys, the filter words and the marks."""

from __future__ import annotations

from typing import Final

from virtstatd.commands.top.lines import FrameLine, clipped, headed


HELP: Final = (
    "# Keys",
    "  1 2 3          what hurts, the guests, the agent;  Tab  the next of them",
    "  Up Down k j    move;  PgUp PgDn Home End  by pages",
    "  Enter          open the guest;  Esc  back",
    "  /              filter: type words, Enter applies them; empty shows all",
    "  s S            sort by the next column, by the one before;  r  reverse",
    "  N C T M L D I  sort by name, CPU, steal, memory, latency, writes, net in",
    "  0              sort by what hurts;  p or blank  pause;  q  quit",
    "# Filter words, which must all match",
    "  web            in the name           -name:x   not in the name",
    "  steal>5        more than 5 %         state:paused",
    "  project:x      of that project       /regex/   matches the name",
    "# Marks of a guest",
    "  !! critical  ! warning  X stuck: its monitor does not answer",
    "  R running  B blocked  P paused  D shutting down  O off  C crashed  S asleep",
    "# Words",
    "  STEAL    of the time its vCPUs were ready, and no CPU was free for them",
    "  PEAK     STEAL in its worst second     LATENCY  of its slowest disk",
    "  PSI      of the time it waited for CPU, I/O or memory (pressure)",
)


def help_lines(width: int) -> list[FrameLine]:
    """Return the help."""
    return [
        headed(f" {line[2:]}", width)
        if line.startswith("# ")
        else clipped(((line, "plain"),), width)
        for line in HELP
    ]
