"""Copies of delivered messages, to requeue them or to send them to a dead letter queue.

Any client of the broker may publish a message, with any properties. Its copy has the same body and those properties and
headers that can be published again; those that the broker would reject, or that describe the delivery, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from txamqp.content import Content

from barbtx.queue.amqp.codec import Codec

#: Headers of a dead letter: the reason, and the queue from which it was consumed.
REASON, ORIGIN = "x-barbtx-reason", "x-barbtx-queue"

# The publisher sets another message-id; the others describe the delivery, or are rejected from other users.
_NOT_COPIED = ("message-id", "expiration", "user-id", "cluster-id", "headers", "delivery-mode")
# Bytes. Properties and headers must fit into one frame, whose size the broker limits.
_MAX_HEADERS_SIZE = 65536


def headers_of(content: Content) -> Mapping[str, Any]:
    """Return the headers of a message, which may be of any AMQP type."""
    return content.properties.get("headers") or {}


def copy_of(content: Content, **headers: str) -> Content:
    """Return a persistent copy of a message.

    :param headers: additional headers.
    """
    kept = {
        name: value
        for name, value in headers_of(content).items()
        if name not in (REASON, ORIGIN, "x-delivery-count", "CC", "BCC")
        and not name.startswith("x-death")
        and not name.startswith("x-first-death")
        and not name.startswith("x-last-death")
    }
    properties = {name: value for name, value in content.properties.items() if name not in _NOT_COPIED}
    return Content(
        content.body, properties={**properties, "delivery-mode": 2, "headers": {**_sendable(kept), **headers}}
    )


def dead_letter(content: Content, reason: str, queue: str) -> Content:
    """Return a copy for the dead letter queue.

    :param reason: why the message cannot be processed.
    :param queue: the queue from which it was consumed.
    """
    return copy_of(content, **{REASON: reason, ORIGIN: queue})


def _sendable(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that can be encoded, up to a total of :data:`_MAX_HEADERS_SIZE` bytes."""
    kept, size = {}, 0
    for name, value in headers.items():
        stream = BytesIO()
        codec = Codec(stream)
        try:
            codec.encode_table({name: value})
        except Exception:
            # A value that can be decoded but not encoded, such as an unsigned integer of 64 bits.
            continue
        size += len(stream.getvalue())
        if size <= _MAX_HEADERS_SIZE:
            kept[name] = value
    return kept
