"""The encoding of AMQP values: txAMQP's codec with byte-exact strings and all field types that RabbitMQ uses in tables.

Source: AMQP 0-9-1, section 4.2, and RabbitMQ's errata for the types of table fields.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO

from txamqp.codec import EOF
from txamqp.codec import Codec as TxCodec

_FIXED = {
    b"b": "!b",
    b"B": "!B",
    b"s": "!h",
    b"u": "!H",
    b"I": "!i",
    b"i": "!I",
    b"l": "!q",
    b"L": "!q",
    b"f": "!f",
    b"d": "!d",
    b"T": "!Q",
}

# Maximum nesting of tables and arrays. Python's recursion limit would depend on the depth of the caller.
_MAX_DEPTH = 64


class Codec(TxCodec):
    """Encodes and decodes AMQP values.

    Unlike in txAMQP, lengths of strings are counted in bytes, a ``longstr`` is bytes, and a short read is an error.
    A ``shortstr`` that is not UTF-8 round-trips: bytes that cannot be decoded become lone surrogates.
    """

    _depth = 0

    def read(self, n: int) -> bytes:
        """Read ``n`` bytes.

        :raises EOF: fewer bytes are left.
        """
        data: bytes = self.stream.read(n)
        if len(data) != n:
            raise EOF("the frame ends in the middle of a value")
        self.nread += n
        # Only adjacent bits share an octet: any other value ends the run.
        self.incoming_bits.clear()
        return data

    def enc_str(self, fmt: str, s: str | bytes) -> None:
        """Write a string after its length in bytes, for which ``fmt`` is the struct format."""
        data = s.encode("utf-8", "surrogateescape") if isinstance(s, str) else s
        self.pack(fmt, len(data))
        self.write(data)

    def decode_shortstr(self) -> str:
        """Read a string of at most 255 bytes."""
        return self._counted_bytes("!B").decode("utf-8", "surrogateescape")

    def decode_longstr(self) -> bytes:
        """Read bytes with a length of 32 bits."""
        return self._counted_bytes("!L")

    def _counted_bytes(self, fmt: str) -> bytes:
        data: bytes = self.dec_bytes(fmt)
        return data

    def encode_table(self, tbl: Mapping[str, object]) -> None:
        """Write a table.

        :raises TypeError: AMQP has no type for a value.
        :raises ValueError: tables are nested too deeply.
        """
        inner = self._nested()
        for key, value in tbl.items():
            inner.encode_shortstr(key)
            inner._encode_field(value)
        self._encode_nested(inner)

    def decode_table(self) -> dict[str, object]:
        """Read a table.

        :raises ValueError: a field has an unknown type, or tables are nested too deeply.
        """
        inner = self._nested(self.decode_longstr())
        result = {}
        while inner._left():
            key = inner.decode_shortstr()
            result[key] = inner._decode_field()
        return result

    def _nested(self, data: bytes = b"") -> Codec:
        """Make a codec for a table or array in this one.

        :raises ValueError: they are nested too deeply.
        """
        inner = type(self)(BytesIO(data))
        inner._depth = self._depth + 1
        if inner._depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        return inner

    def _encode_nested(self, inner: Codec) -> None:
        inner.flush()
        self.encode_longstr(inner.stream.getvalue())

    def _left(self) -> int:
        return len(self.stream.getbuffer()) - int(self.stream.tell())

    def _encode_field(self, value: object) -> None:
        if isinstance(value, bool):
            self.write(b"t" + bytes([value]))
        elif isinstance(value, int):
            self.write(b"l" + struct.pack("!q", value))
        elif isinstance(value, float):
            self.write(b"d" + struct.pack("!d", value))
        elif isinstance(value, (str, bytes)):
            self.write(b"S")
            self.encode_longstr(value)
        elif isinstance(value, Mapping):
            self.write(b"F")
            self.encode_table(value)
        elif isinstance(value, (list, tuple)):
            self.write(b"A")
            inner = self._nested()
            for item in value:
                inner._encode_field(item)
            self._encode_nested(inner)
        elif value is None:
            self.write(b"V")
        else:
            raise TypeError(f"no AMQP field type for {type(value).__name__}")

    def _decode_field(self) -> object:
        kind = self.read(1)
        if kind in _FIXED:
            return self.unpack(_FIXED[kind])
        if kind == b"t":
            return self.decode_octet() != 0
        if kind == b"S":
            data = self.decode_longstr()
            try:
                return data.decode()
            except UnicodeDecodeError:
                return data
        if kind == b"x":
            return self.decode_longstr()
        if kind == b"F":
            return self.decode_table()
        if kind == b"A":
            inner = self._nested(self.decode_longstr())
            items = []
            while inner._left():
                items.append(inner._decode_field())
            return items
        if kind == b"D":
            scale, number = self.decode_octet(), self.unpack("!i")
            return number / 10**scale
        if kind == b"V":
            return None
        raise ValueError(f"unknown type of table field: {kind!r}")
