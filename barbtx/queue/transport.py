"""What carries a message: RabbitMQ, or nothing but this process."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from barbtx.model.records import SYMMETRIC

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class PublishRefused(Exception):
    """The message was not taken: no broker, no room, no queue. Its task's row will bring it back."""


class InvalidMessage(Exception):
    """The message can never be processed; the text says why, without quoting it."""


class RetryLater(Exception):
    """The message cannot be processed now, and nothing was begun: it is to come again."""


class WrongLane(Exception):
    """The message is to be processed in another lane.

    :ivar lane: its name.
    """

    def __init__(self, lane: str) -> None:
        super().__init__(lane)
        self.lane = lane


@attrs.frozen
class TaskMessage:
    """A call of a task method.

    :ivar args: keyword arguments; ids only, never anything secret.
    :ivar lane: in which it is to be processed; how it travels depends on it, what it says does not.
    """

    method: str
    args: Mapping[str, str | None]
    lane: str = attrs.field(default=SYMMETRIC, eq=False)


class ITransport(Interface):
    """A way for messages to reach a :class:`~barbtx.queue.server.Tasks`."""

    ready = Attribute("Whether a message would be taken now.")

    def send(message: TaskMessage) -> Deferred[None]:
        """Take a message. Fires when it is safe or, without a broker, when the task has come to an end.

        :raises Refused: (asynchronously) it was not taken.
        """


def encode(message: TaskMessage, namespace: str, version: str) -> bytes:
    """The message as it travels: JSON in ASCII."""
    return json.dumps(
        {"version": version, "namespace": namespace, "method": message.method, "args": dict(message.args)},
        separators=(",", ":"),
    ).encode("ascii")


def decode(body: bytes, namespace: str, version: str) -> TaskMessage:
    """Read a message; fields that are not known are those of a later minor version and left alone.

    :raises BadMessage: it is none, or not for us, or of another major version.
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
        raise InvalidMessage("another major version")
    method, args = document.get("method"), document.get("args")
    if not isinstance(method, str) or not isinstance(args, dict):
        raise InvalidMessage("no method or no arguments")
    if not all(value is None or isinstance(value, str) for value in args.values()):
        raise InvalidMessage("an argument is no text")
    return TaskMessage(method, args)


def is_text(value: object, longest: int = 255) -> bool:
    """Whether a value from outside is a text that every database takes: not empty, without NUL and lone surrogates, of
    so many characters at most.
    """
    return (
        isinstance(value, str)
        and 0 < len(value) <= longest
        and not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)
    )


def is_id(value: object) -> bool:
    """Whether a value from outside is an object's id: a UUID as barbtx writes them."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None
