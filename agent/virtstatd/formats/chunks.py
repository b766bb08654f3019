"""Cut and join what is sent at once: samples of a batch, pieces of a size, whole lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


Chunk = tuple[int, Callable[[], bytes]]
"""A number of samples, and what encodes them."""


def packed(texts: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Join texts up to a size in bytes; one that is longer than the limit goes alone."""
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        if size and size + len(text) > limit:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
        waiting.append(text)
        size += len(text)
    if size:
        yield b"".join(waiting)


def whole_lines(text: bytes, limit: int) -> Iterator[bytes]:
    """Cut a text into texts of whole lines up to a size; a longer line is a text of its own."""
    start = 0
    while len(text) - start > limit:
        end = text.rfind(b"\n", start, start + limit) + 1 or text.find(b"\n", start) + 1
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
