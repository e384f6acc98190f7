"""The transport interface, and messages and their encoding, which all transports share."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Mapping

import attrs
from zope.interface import Attribute, Interface

from barbtx.model.records import SYMMETRIC
from barbtx.validators import has_nul_or_surrogate

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class PublishRefused(Exception):
    """The transport or the broker did not accept a message. The retry scheduler sends its task again."""


class InvalidMessage(Exception):
    """The message can never be processed. The text gives the reason and does not quote the message."""


class RetryLater(Exception):
    """The message cannot be processed now and nothing was started: deliver it again later."""


class WrongLane(Exception):
    """The message must be processed in another lane.

    :ivar lane: name of that lane.
    """

    def __init__(self, lane: str) -> None:
        super().__init__(lane)
        self.lane = lane


@attrs.frozen
class TaskMessage:
    """A call of a task method.

    :ivar args: keyword arguments, which are IDs and never secret.
    :ivar lane: the lane that processes the message. It selects the queue and is not part of the encoded message.
    """

    method: str
    args: Mapping[str, str | None]
    lane: str = attrs.field(default=SYMMETRIC, eq=False)


class ITransport(Interface):
    """Carries messages to a :class:`~barbtx.queue.server.Tasks`, at least once.

    A transport may lose a message that it accepted: the task's row is in the database, and the retry scheduler sends
    the task again.
    """

    ready: bool = Attribute("Whether a message would be accepted now.")
    permits: bool = Attribute(
        "Whether a message is a permit to process an order of its lane, and not the one task that it names."
    )

    def send(message: TaskMessage) -> Awaitable[None]:
        """Send a message.

        :return: fires when the broker has confirmed the message or, without a broker, when the task has ended.
        :raises PublishRefused: (asynchronously) the message was not accepted.
        """


def encode(message: TaskMessage, namespace: str, version: str) -> bytes:
    """Encode a message as JSON in ASCII."""
    return json.dumps(
        {"version": version, "namespace": namespace, "method": message.method, "args": dict(message.args)},
        separators=(",", ":"),
    ).encode("ascii")


def decode(body: bytes, namespace: str, version: str) -> TaskMessage:
    """Decode a message. Unknown fields are ignored, because a later minor version may add some.

    :raises InvalidMessage: the body is not a message, or is for another namespace or major version.
    """
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise InvalidMessage("not JSON") from None
    if not isinstance(document, dict):
        raise InvalidMessage("not an object")
    if document.get("namespace") != namespace:
        raise InvalidMessage("another namespace")
    theirs = document.get("version")
    if not isinstance(theirs, str) or theirs.partition(".")[0] != version.partition(".")[0]:
        raise InvalidMessage("unsupported major version")
    method, args = document.get("method"), document.get("args")
    if not isinstance(method, str) or not isinstance(args, dict):
        raise InvalidMessage("no method or no arguments")
    if not all(value is None or isinstance(value, str) for value in args.values()):
        raise InvalidMessage("an argument is not a string")
    return TaskMessage(method, args)


def is_text(value: object, max_length: int = 255) -> bool:
    """Return whether a value from outside is a string that every supported database can store.

    Such a string is not empty, has at most ``max_length`` characters, and contains neither NUL nor lone surrogates.
    """
    return isinstance(value, str) and 0 < len(value) <= max_length and not has_nul_or_surrogate(value)


def is_id(value: object) -> bool:
    """Return whether a value from outside is a UUID in the form in which barbtx writes the IDs of its objects."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None
