"""Encoding and decoding of frames with barbtx's codec, which replaces that of txAMQP.

Source: AMQP 0-9-1, section 4.2.3 to 4.2.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from typing import Any

from txamqp.codec import EOF
from txamqp.connection import Body, Frame, Header, Heartbeat, Method
from txamqp.spec import Spec

from barbtx.queue.amqp.codec import Codec

_METHOD, _HEADER, _BODY, _HEARTBEAT, _END = 1, 2, 3, 8, 206
_UNREADABLE = (KeyError, ValueError, EOF, struct.error)
_PREFIX = struct.Struct("!BHL")
#: Bytes of a frame beside its payload.
OVERHEAD = _PREFIX.size + 1


class FrameError(Exception):
    """The received data is not a valid frame, so that the connection cannot be used any longer."""


class FrameBuffer:
    """Assembles frames from received bytes.

    :ivar max_size: maximum size of a frame in bytes, including :data:`OVERHEAD`. A longer one is rejected when its
        length was read.
    """

    def __init__(self, spec: Spec, max_size: int) -> None:
        self.max_size = max_size
        self._spec = spec
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add bytes and yield the frames that they complete.

        :raises FrameError: a frame is too long or cannot be decoded.
        """
        self._data += data
        while len(self._data) >= _PREFIX.size:
            kind, channel, size = _PREFIX.unpack_from(self._data)
            if size + OVERHEAD > self.max_size:
                raise FrameError("a frame is longer than the negotiated maximum")
            end = size + OVERHEAD
            if len(self._data) < end:
                return
            payload = bytes(self._data[_PREFIX.size : end - 1])
            if self._data[end - 1] != _END:
                raise FrameError("a frame has no end marker")
            del self._data[:end]
            yield Frame(channel, self._decode(kind, payload))

    def _decode(self, kind: int, payload: bytes) -> Method | Header | Body | Heartbeat:
        codec = Codec(BytesIO(payload))
        try:
            if kind == _METHOD:
                method = self._spec.classes.byid[codec.decode_short()].methods.byid[codec.decode_short()]
                return Method(method, *[codec.decode(field.type) for field in method.fields])
            if kind == _HEADER:
                return _decode_header(self._spec, codec)
        except _UNREADABLE as problem:
            raise FrameError(f"a frame cannot be decoded: {type(problem).__name__}") from None
        if kind == _BODY:
            return Body(payload)
        if kind == _HEARTBEAT:
            return Heartbeat()
        raise FrameError(f"a frame has the unknown type {kind}")


def pack(frame: Frame) -> bytes:
    """Encode a frame.

    :raises ValueError: a header has an unknown property, or a table is nested too deeply.
    """
    payload = frame.payload
    if isinstance(payload, Method):
        # All messages for a queue have the same method before their content.
        encode = _encode_repeated_method if payload.method.content else _encode_method
        kind, data = _METHOD, encode(payload.method, tuple(payload.args))
    elif isinstance(payload, Header):
        kind, data = _HEADER, _encode_header(payload)
    elif isinstance(payload, Body):
        kind, data = _BODY, payload.content
    else:
        kind, data = _HEARTBEAT, b""
    return _PREFIX.pack(kind, frame.channel, len(data)) + data + bytes([_END])


def _encode_method(method: Any, args: tuple[object, ...]) -> bytes:
    stream = BytesIO()
    codec = Codec(stream)
    codec.encode_short(method.klass.id)
    codec.encode_short(method.id)
    for field, value in zip(method.fields, args, strict=True):
        codec.encode(field.type, value)
    codec.flush()
    return stream.getvalue()


_encode_repeated_method = lru_cache(maxsize=100)(_encode_method)


def _encode_header(header: Header) -> bytes:
    stream = BytesIO()
    codec = Codec(stream)
    codec.encode_short(header.klass.id)
    codec.encode_short(0)
    codec.encode_longlong(header.size)
    flags, properties = _layout(header.klass, tuple(header.properties))
    codec.encode_short(flags)
    for name, type_ in properties:
        codec.encode(type_, header.properties[name])
    codec.flush()
    return stream.getvalue()


@lru_cache(maxsize=100)
def _layout(klass: Any, names: tuple[str, ...]) -> tuple[int, list[tuple[str, str]]]:
    """Return the flags of a header with these properties, and their names and types in the order of the frame."""
    fields = list(klass.fields)
    unknown = set(names) - {field.name for field in fields}
    if unknown:
        raise ValueError(f"no such message properties: {sorted(unknown)}")
    flags = sum(1 << (15 - index) for index, field in enumerate(fields) if field.name in names)
    return flags, [(field.name, field.type) for field in fields if field.name in names]


def _decode_header(spec: Spec, codec: Codec) -> Header:
    """Decode a content header. Properties from the first invalid one on are dropped, because publishers set them."""
    klass = spec.classes.byid[codec.decode_short()]
    weight, size, flags = codec.decode_short(), codec.decode_longlong(), codec.decode_short()
    properties = {}
    for index, field in enumerate(klass.fields):
        if flags & (1 << (15 - index)):
            try:
                properties[field.name] = codec.decode(field.type)
            except _UNREADABLE:
                # The position of the next property is unknown. The frame's end is known, so that the body can be read.
                break
    return Header(klass, weight, size, **properties)
