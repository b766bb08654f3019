"""Batches on their way from memory to a disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from virtstatd.model import Batch
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.segment import Position


@dataclass(slots=True, eq=False)
class Entry:
    """A batch in memory. `position` is where it is on disk, when it is known to be there."""

    batch: Batch
    position: Position | None = None
    underway: bool = False
    """On its way to the disk; it cannot be called back."""
    unwanted: bool = False
    """Need not or cannot be written."""


@dataclass(slots=True, eq=False)
class Writing:
    """Batches on their way to the disk, and what has become of them."""

    entries: list[Entry]
    anew: bool
    opened: tuple[Position, Position] | None = None
    """What was found when the spool was opened: settled, and end."""
    positions: dict[int, Position] = field(default_factory=dict)
    """Where those are that were written, by their number in `entries`."""
    refused: dict[int, Exception] = field(default_factory=dict)

    def run(self, spool: Spool) -> None:  # on the thread
        """Write them, up to the first failure of the disk."""
        if self.anew:
            spool.open()
            self.opened = spool.settled, spool.end
        for number, entry in enumerate(self.entries):
            if entry.unwanted:
                continue
            before = spool.end
            try:
                spool.append(entry.batch)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - this batch cannot be written, others can
                self.refused[number] = error
            finally:
                if spool.end != before:
                    self.positions[number] = before
