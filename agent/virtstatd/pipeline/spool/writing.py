"""One call of the spool's thread: write batches from memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from virtstatd.model import Batch
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.segment import Position


@dataclass(slots=True, eq=False)
class Entry:
    """A batch in memory; `position` is None until the batch is known to be on disk."""

    batch: Batch
    position: Position | None = None
    underway: bool = False
    """Handed to the thread, which cannot be stopped."""
    unwanted: bool = False
    """Not to be written: settled already, or impossible to write."""


@dataclass(slots=True, eq=False)
class Writing:
    """Batches for one call of the thread, and their outcomes."""

    entries: list[Entry]
    reopen: bool
    opened: tuple[Position, Position] | None = None
    """`settled` and `end` of the spool as it was opened."""
    positions: dict[int, Position] = field(default_factory=dict)
    """Positions of the written ones, by their number in `entries`."""
    refused: dict[int, Exception] = field(default_factory=dict)

    def run(self, spool: Spool) -> None:  # on the thread
        """Write them, up to the first failure of the disk."""
        if self.reopen:
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
