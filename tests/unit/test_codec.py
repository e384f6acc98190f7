"""Encoding and decoding of AMQP values."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from txamqp.codec import EOF

from barbtx.queue.amqp.codec import Codec

_texts = st.text(max_size=40)
_scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _texts | st.floats(allow_nan=False)
_fields = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)


def encoded(method: str, value: object) -> bytes:
    codec = Codec(BytesIO())
    getattr(codec, f"encode_{method}")(value)
    codec.flush()
    return codec.stream.getvalue()


def decoded(method: str, data: bytes) -> object:
    return getattr(Codec(BytesIO(data)), f"decode_{method}")()


@given(st.dictionaries(st.text(max_size=20), _fields, max_size=6))
def test_every_table_survives_the_way_there_and_back(table: dict) -> None:
    assert decoded("table", encoded("table", table)) == table


def test_text_is_counted_in_bytes() -> None:
    assert encoded("shortstr", "é") == b"\x02\xc3\xa9"
    assert decoded("shortstr", b"\x02\xc3\xa9") == "é"


def test_long_text_stays_bytes() -> None:
    assert decoded("longstr", b"\x00\x00\x00\x02\xff\xfe") == b"\xff\xfe"


def test_capabilities_are_encoded_as_rabbitmq_reads_them() -> None:
    table = encoded("table", {"capabilities": {"basic.nack": True}})
    assert table == b"\x00\x00\x00\x1f\x0ccapabilitiesF\x00\x00\x00\x0d\x0abasic.nackt\x01"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"t\x01", True),
        (b"b\xff", -1),
        (b"B\xff", 255),
        (b"s\xff\xff", -1),
        (b"u\xff\xff", 65535),
        (b"I\xff\xff\xff\xff", -1),
        (b"i\xff\xff\xff\xff", 2**32 - 1),
        (b"l" + b"\xff" * 8, -1),
        (b"L" + b"\xff" * 8, -1),
        (b"f\x3f\x80\x00\x00", 1.0),
        (b"d\x3f\xf0" + b"\x00" * 6, 1.0),
        (b"D\x02\x00\x00\x00\x7b", 1.23),
        (b"T\x00\x00\x00\x00\x00\x00\x00\x05", 5),
        (b"V", None),
        (b"x\x00\x00\x00\x01\xff", b"\xff"),
        (b"S\x00\x00\x00\x01\xff", b"\xff"),
        (b"S\x00\x00\x00\x01a", "a"),
        (b"A\x00\x00\x00\x02t\x00", [False]),
    ],
)
def test_every_type_of_field_that_rabbitmq_sends_is_read(field: bytes, value: object) -> None:
    table = b"\x01k" + field
    assert decoded("table", len(table).to_bytes(4, "big") + table) == {"k": value}


def test_an_unknown_type_of_field_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown type of table field"):
        decoded("table", b"\x00\x00\x00\x03\x01k?")


def test_a_value_that_ends_too_soon_is_an_error() -> None:
    with pytest.raises(EOF):
        decoded("shortstr", b"\x05abc")


def test_bits_do_not_leak_into_the_next_run() -> None:
    codec = Codec(BytesIO(b"\x03\x07\x00"))
    assert [codec.decode_bit(), codec.decode_octet(), codec.decode_bit()] == [True, 7, False]
