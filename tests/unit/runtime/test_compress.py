"""Bodies are compressed, large ones beside the event loop."""

import threading
import zlib

import pytest

from virtstatd.runtime.compress import ASIDE_BYTES, GZIP_BITS, compressed, gzipped


@pytest.mark.parametrize(("size", "aside"), [(ASIDE_BYTES - 1, False), (ASIDE_BYTES, True)])
async def test_large_bodies_are_compressed_on_a_thread(size: int, aside: bool):
    """What takes long to compress leaves the loop to others, and is the same."""
    threads: list[threading.Thread] = []

    def how(body: bytes) -> bytes:
        threads.append(threading.current_thread())
        return gzipped(body)

    body = bytes(size)
    assert zlib.decompress(await compressed(body, how), GZIP_BITS) == body
    assert (threads != [threading.current_thread()]) == aside
