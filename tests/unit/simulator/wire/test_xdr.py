"""The primitives of XDR against the examples of RFC 4506's rules, and what hostile bytes do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtstatd_simulator.wire import xdr
from virtstatd_simulator.wire.xdr import Reader, XdrError


WAYS = {
    "int": (xdr.pack_int, st.integers(-(1 << 31), (1 << 31) - 1)),
    "uint": (xdr.pack_uint, st.integers(0, (1 << 32) - 1)),
    "hyper": (xdr.pack_hyper, st.integers(-(1 << 63), (1 << 63) - 1)),
    "uhyper": (xdr.pack_uhyper, st.integers(0, (1 << 64) - 1)),
    "double": (xdr.pack_double, st.floats(allow_nan=False)),
    "opaque": (xdr.pack_opaque, st.binary(max_size=40)),
    "string": (xdr.pack_string, st.text(max_size=40)),
    "optional": (xdr.pack_optional, st.none() | st.text(max_size=40)),
}


@pytest.mark.parametrize("kind", WAYS)
@given(data=st.data())
def test_what_is_packed_comes_back(kind: str, data: st.DataObject):
    """Every primitive survives the way there and back, and takes a multiple of four bytes."""
    pack, values = WAYS[kind]
    value = data.draw(values)
    blob = pack(value)
    assert len(blob) % 4 == 0
    assert getattr(Reader(blob), f"take_{kind}")() == value


def test_layout_is_that_of_the_specification():
    """Numbers are big endian, strings are counted and padded with zeros."""
    assert xdr.pack_int(-2) == b"\xff\xff\xff\xfe"
    assert xdr.pack_string("hello") == b"\0\0\0\x05hello\0\0\0"
    assert xdr.pack_optional(None) == b"\0\0\0\0"
    assert xdr.pack_array([xdr.pack_int(7)]) == b"\0\0\0\x01\0\0\0\x07"


@given(st.text(max_size=30), st.data())
def test_a_message_that_ends_too_early_is_an_error(text: str, data: st.DataObject):
    """No prefix of a string is taken for one."""
    blob = xdr.pack_string(text)
    cut = data.draw(st.integers(0, len(blob) - 1))
    with pytest.raises(XdrError):
        Reader(blob[:cut]).take_string()


@pytest.mark.parametrize("blob", [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xffabcd"])
def test_an_announced_length_is_not_trusted(blob: bytes):
    """Lengths beyond the message or beyond the limit are refused before anything is allocated."""
    with pytest.raises(XdrError):
        Reader(blob).take_string()
    with pytest.raises(XdrError):
        Reader(blob).take_array(Reader(blob).take_int, 1000)


def test_names_that_are_no_utf8_come_back_as_they_were():
    """Bytes of a name that cannot be decoded are given back unchanged."""
    blob = xdr.pack_opaque(b"\xff\xfename")
    assert xdr.pack_string(Reader(blob).take_string()) == blob
