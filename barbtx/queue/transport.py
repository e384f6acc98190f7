"""What carries a message: RabbitMQ, or nothing but this process."""

from __future__ import annotations

import json
from collections.abc import Mapping

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface


class Refused(Exception):
    """The message was not taken: no broker, no room, no queue. Its task's row will bring it back."""


class BadMessage(Exception):
    """The message can never be processed; the text says why, without quoting it."""


@attrs.frozen
class TaskMessage:
    """A call of a task method.

    :ivar args: keyword arguments; ids only, never anything secret.
    """

    method: str
    args: Mapping[str, str | None]


class ITransport(Interface):
    """A way for messages to reach a :class:`~barbtx.queue.server.Tasks`."""

    ready = Attribute("Whether a message would be taken now.")

    def send(message: TaskMessage) -> Deferred[None]:
        """Take a message. Fires when it is safe or, without a broker, when the task has come to an end.

        :raises Refused: (asynchronously) it was not taken.
        """


def encode(message: TaskMessage, namespace: str, version: str) -> bytes:
    """The message as it travels: JSON in ASCII."""
    return json.dumps({"version": version, "namespace": namespace, "method": message.method,
                       "args": dict(message.args)}, separators=(",", ":")).encode("ascii")


def decode(body: bytes, namespace: str, version: str) -> TaskMessage:
    """Read a message; fields that are not known are those of a later minor version and left alone.

    :raises BadMessage: it is none, or not for us, or of another major version.
    """
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadMessage("not JSON") from None
    if not isinstance(document, dict):
        raise BadMessage("not an object")
    if document.get("namespace") != namespace:
        raise BadMessage("another namespace")
    if str(document.get("version")).partition(".")[0] != version.partition(".")[0]:
        raise BadMessage("another major version")
    method, args = document.get("method"), document.get("args")
    if not isinstance(method, str) or not isinstance(args, dict):
        raise BadMessage("no method or no arguments")
    if not all(value is None or isinstance(value, str) for value in args.values()):
        raise BadMessage("an argument is no text")
    return TaskMessage(method, args)
