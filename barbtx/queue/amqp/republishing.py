"""Copies of messages that were delivered, for another place in a queue or for the dead letters.

A message may come from anybody and carry anything. Its copy has the same body; of the properties and headers it keeps
what can be sent again, and leaves out what would be refused or is about the delivery, not about the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from txamqp.content import Content

from barbtx.queue.amqp.codec import Codec

#: Headers of a dead letter: why it is one, and where it came from.
REASON, ORIGIN = "x-barbtx-reason", "x-barbtx-queue"

# The message-id is set anew by whoever publishes; the others are about the delivery, or refused from anybody else.
_NOT_COPIED = ("message-id", "expiration", "user-id", "cluster-id", "headers", "delivery-mode")
# Properties and headers travel in one frame, which the broker bounds.
_LONGEST_HEADERS = 65536


def headers_of(content: Content) -> Mapping[str, Any]:
    """The headers of a message."""
    return content.properties.get("headers") or {}


def copy_of(content: Content, **headers: str) -> Content:
    """A persistent copy of a message.

    :param headers: further headers.
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
    """A copy for the dead letters.

    :param reason: why it is one.
    :param queue: where it came from.
    """
    return copy_of(content, **{REASON: reason, ORIGIN: queue})


def _sendable(headers: Mapping[str, Any]) -> dict[str, Any]:
    kept, size = {}, 0
    for name, value in headers.items():
        codec = Codec(BytesIO())
        try:
            codec.encode_table({name: value})
        except Exception:
            # A value that can be read and not written, such as an unsigned integer of 64 bits.
            continue
        size += len(codec.stream.getvalue())
        if size <= _LONGEST_HEADERS:
            kept[name] = value
    return kept
