"""Frames cut from a stream, and errors as libvirtd sends them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtstatd_simulator.wire import rpc
from virtstatd_simulator.wire.rpc import FrameError, Frames, Header, RpcError
from virtstatd_simulator.wire.xdr import Reader


HEADER = Header(rpc.REMOTE_PROGRAM, 1, 344, rpc.CALL, 7, rpc.OK)


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(1, 30), min_size=1))
def test_frames_survive_any_cutting_of_the_stream(payloads: list[bytes], sizes: list[int]):
    """However the bytes arrive, the same frames come out, in order."""
    stream = b"".join(rpc.frame(HEADER, len(p)) + p for p in payloads)
    frames, found, at, turn = Frames(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        frames.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
        found += list(frames)
    assert found == [(HEADER, p) for p in payloads]


@pytest.mark.parametrize("size", [0, 3, 4, 27, rpc.MAX_MESSAGE + 5, 0xFFFFFFFF])
def test_a_length_that_cannot_be_is_no_frame(size: int):
    """Too short for a header or longer than libvirt's limit: refused at the length word."""
    frames = Frames()
    frames.feed(size.to_bytes(4, "big"))
    with pytest.raises(FrameError):
        next(frames)


def test_the_largest_frame_is_the_one_libvirt_allows():
    """A payload of 33,554,408 bytes makes a frame that is accepted."""
    frames = Frames()
    frames.feed(rpc.frame(HEADER, rpc.MAX_PAYLOAD))
    assert next(frames, None) is None
    assert rpc.MAX_PAYLOAD == 33554408


def test_an_error_has_the_shape_of_libvirts():
    """`remote_error` as recorded from libvirtd 9.0 for an id that does not exist."""
    text = "no domain with matching id 99"
    reader = Reader(RpcError(rpc.NO_DOMAIN, rpc.FROM_QEMU, text).pack())
    assert [reader.take_int(), reader.take_int()] == [42, 10]
    assert reader.take_optional() == f"Domain not found: {text}"
    assert [reader.take_int(), reader.take_uint()] == [2, 0]
    strings = [reader.take_optional() for _ in range(3)]
    assert strings == ["Domain not found: %s", text, None]
    assert [reader.take_int(), reader.take_int(), reader.take_uint()] == [-1, -1, 0]
