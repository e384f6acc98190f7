"""Frames, which arrive in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from txamqp.connection import Body, Frame, Header, Heartbeat, Method

from barbtx.queue.amqp.frames import FrameBuffer, FrameError, pack
from barbtx.queue.amqp.protocol import load_spec

SPEC = load_spec()
BASIC = SPEC.classes.byname["basic"]
DELIVER = BASIC.methods.byname["deliver"]


def frames() -> list[Frame]:
    return [
        Frame(1, Method(DELIVER, "tag", 7, True, "", "queue")),
        Frame(1, Header(BASIC, 0, 3, **{"headers": {"x-delivery-count": 1}, "delivery-mode": 2})),
        Frame(1, Body(b"\xff\xfe\x00")),
        Frame(0, Heartbeat()),
    ]


def shown(frame: Frame) -> tuple:
    payload = frame.payload
    if isinstance(payload, Method):
        return frame.channel, payload.method.name, payload.args
    if isinstance(payload, Header):
        return frame.channel, payload.size, payload.properties
    return frame.channel, getattr(payload, "content", None)


@given(st.lists(st.integers(1, 200), max_size=8))
def test_frames_come_out_whole_whatever_pieces_they_come_in(cuts: list[int]) -> None:
    data = b"".join(pack(frame) for frame in frames())
    buffer, out, start = FrameBuffer(SPEC, 4096), [], 0
    for cut in [*sorted(cuts), len(data)]:
        out += buffer.feed(data[start:cut])
        start = max(start, cut)
    assert [shown(frame) for frame in out] == [shown(frame) for frame in frames()]


def test_a_frame_over_the_agreed_size_is_refused_before_it_is_there() -> None:
    with pytest.raises(FrameError):
        list(FrameBuffer(SPEC, 100).feed(b"\x03\x00\x01\x00\x00\x10\x00"))


@pytest.mark.parametrize(
    "data",
    [
        b"\x03\x00\x01\x00\x00\x00\x01a\xcd",
        b"\x07\x00\x01\x00\x00\x00\x01a\xce",
        b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x03\xe7\xce",
        b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\x3c\xce",
    ],
    ids=["bad end", "unknown type", "unknown method", "cut short"],
)
def test_what_is_no_frame_is_an_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(FrameError):
        list(FrameBuffer(SPEC, 4096).feed(data))


def test_an_unknown_property_is_not_dropped_silently() -> None:
    with pytest.raises(ValueError, match="no such message properties"):
        pack(Frame(1, Header(BASIC, 0, 0, **{"delivery mode": 2})))
