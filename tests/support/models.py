"""A file system in memory that forgets what was not synced, and fails or dies at any operation."""

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from virtstatd.pipeline.spool.files import Space, SpoolFiles


class Died(BaseException):
    """The process is no more; nobody may catch this."""


@dataclass(eq=False)
class Inode:
    """A file as the kernel shows it, as the disk has it, and the writes between the two."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    links: int = 1


@dataclass
class Trouble:
    """What happens at the operation after so many."""

    operations: int
    error: int | None
    """None is death."""
    lasting: bool = False


class Modelled(SpoolFiles):
    """One directory, in which everything is possible that a disk does."""

    def __init__(self, seed: int) -> None:
        self.names_now: dict[Path, Inode] = {}
        self.full = False
        self.trouble: Trouble | None = None
        self.happened = 0
        self.troubled = 0
        self._chance = random.Random(seed)
        self._durable_names: dict[Path, Inode] = {}
        self._changes: list[tuple[Path, Inode | None]] = []
        self._open: dict[int, Inode] = {}
        self._next = 100
        self._locked: int | None = None
        self._dead = False

    def restart(self, *, power: bool) -> None:
        """Begin anew: after the process was killed, or after the power failed."""
        self._dead = False
        self.trouble = None
        self._open.clear()
        self._locked = None
        if not power:
            return
        for path, inode in self._changes[: self._chance.randint(0, len(self._changes))]:
            _change(self._durable_names, path, inode)
        self._changes.clear()
        self.names_now = dict(self._durable_names)
        for inode in set(self.names_now.values()):
            for offset, content in inode.pending:
                match self._chance.randrange(3):
                    case 0:
                        _apply(inode.durable, offset, content)
                    case 1 if content is not None:
                        cut = self._chance.randint(0, len(content))
                        _apply(inode.durable, offset, content[:cut])
            inode.pending.clear()
            inode.content = bytearray(inode.durable)

    def put(self, path: Path, content: bytes) -> None:
        """Have a file with this content, from outside of any process."""
        self.names_now[path] = self._durable_names[path] = Inode(
            bytearray(content), bytearray(content)
        )

    def take_away(self, path: Path) -> None:
        """Remove a file from outside of any process."""
        self.names_now.pop(path, None)
        self._durable_names.pop(path, None)

    def _operate(self, partly: Callable[[float], None] = lambda _: None) -> None:
        if self._dead:
            raise Died
        if (trouble := self.trouble) is None:
            return
        trouble.operations -= 1
        if trouble.operations >= 0:
            return
        self.happened += 1
        self.troubled += 1
        partly(self._chance.random())
        if trouble.error is None:
            self._dead = True
            raise Died
        if not trouble.lasting:
            self.trouble = None
        raise OSError(trouble.error, os.strerror(trouble.error))

    def make_directory(self, path: Path) -> None:
        """Make nothing: it is there."""
        self._operate()

    def lock(self, path: Path) -> int:
        """Lock the one directory."""
        self._operate()
        if self._locked is not None:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked")
        self._next += 1
        self._locked = self._next
        return self._locked

    def names(self, path: Path) -> list[str]:
        """List."""
        self._operate()
        return [each.name for each in self.names_now]

    def open(self, path: Path) -> int:
        """Open what is there."""
        self._operate()
        if path not in self.names_now:
            raise FileNotFoundError(errno.ENOENT, "not there", str(path))
        return self._opened(self.names_now[path])

    def create(self, path: Path) -> int:
        """Make or empty a file."""
        self._operate()
        if inode := self.names_now.get(path):
            inode.content.clear()
            inode.pending.append((0, None))
        else:
            inode = Inode()
            self._rename(path, inode)
        return self._opened(inode)

    def read(self, file: int, size: int, offset: int) -> bytes:
        """Read."""
        self._operate()
        return bytes(self._open[file].content[offset : offset + size])

    def write(self, file: int, content: bytes, offset: int) -> None:
        """Write, all or some."""
        self._operate(lambda share: self._write(file, content[: int(len(content) * share)], offset))
        if self.full and offset + len(content) > len(self._open[file].content):
            self.happened += 1
            raise OSError(errno.ENOSPC, "full")
        self._write(file, content, offset)

    def truncate(self, file: int, size: int) -> None:
        """Cut."""
        self._operate()
        inode = self._open[file]
        del inode.content[size:]
        inode.pending.append((size, None))

    def size(self, file: int) -> int:
        """Tell the size."""
        self._operate()
        return len(self._open[file].content)

    def linked(self, file: int) -> bool:
        """Tell whether there is a name."""
        self._operate()
        return self._open[file].links > 0

    def sync(self, file: int) -> None:
        """Make durable, or forget what was to be: the next sync knows nothing of it."""
        inode = self._open[file]
        self._operate(lambda _: inode.pending.clear())
        inode.durable = bytearray(inode.content)
        inode.pending.clear()

    def sync_directory(self, path: Path) -> None:
        """Make the names durable."""
        self._operate()
        self._durable_names = dict(self.names_now)
        self._changes.clear()

    def rename(self, path: Path, to: Path) -> None:
        """Rename."""
        self._operate()
        if path not in self.names_now:
            raise FileNotFoundError(errno.ENOENT, "not there", str(path))
        inode = self.names_now[path]
        self._rename(path, None)
        self._rename(to, inode)

    def remove(self, path: Path) -> None:
        """Remove."""
        self._operate()
        if path not in self.names_now:
            raise FileNotFoundError(errno.ENOENT, "not there", str(path))
        self.names_now[path].links = 0
        self._rename(path, None)

    def close(self, file: int) -> None:
        """Close; the descriptor is gone also when that is said to have failed."""
        self._open.pop(file, None)
        if file == self._locked:
            self._locked = None
        self._operate()

    def space(self, path: Path) -> Space:
        """Tell the room."""
        self._operate()
        return Space(1 << 40, 1 << 41)

    def _opened(self, inode: Inode) -> int:
        self._next += 1
        self._open[self._next] = inode
        return self._next

    def _write(self, file: int, content: bytes, offset: int) -> None:
        inode = self._open[file]
        _apply(inode.content, offset, content)
        inode.pending.append((offset, bytes(content)))

    def _rename(self, path: Path, inode: Inode | None) -> None:
        _change(self.names_now, path, inode)
        self._changes.append((path, inode))


def _apply(content: bytearray, offset: int, written: bytes | None) -> None:
    if written is None:
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(written)] = written


def _change(names: dict[Path, Inode], path: Path, inode: Inode | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode
