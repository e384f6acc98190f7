"""A channel of an AMQP connection: requests and their replies, and messages with content.

In contrast to txAMQP 0.8.2, replies are matched to their requests, bodies are bytes of bounded length, and frames
that are out of sequence end the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from txamqp.client import ChannelClosed, Closed, ConnectionClosed
from txamqp.connection import Body, Frame, Header, Method
from txamqp.content import Content
from txamqp.message import Message
from txamqp.protocol import AMQChannel

from barbtx.errors import one_line
from barbtx.queue.amqp.frames import OVERHEAD, FrameError, pack

if TYPE_CHECKING:
    from barbtx.queue.amqp.protocol import Client

#: Maximum number of bytes that are kept of a message's body.
MAX_BODY = 1 << 20


class ReceivedContent(Content):
    """The content of a message from the broker.

    :ivar missing: number of bytes of the body that were discarded, because it is longer than :data:`MAX_BODY`.
    """

    missing = 0


if TYPE_CHECKING:

    class _Methods(AMQChannel):
        """The AMQP methods that barbtx calls, which txAMQP generates from the specification at run time.

        Arguments and attributes of the replies have the names of AMQP 0-9-1.
        """

        def connection_start_ok(
            self, *, client_properties: Mapping[str, object], mechanism: str, response: bytes, locale: str
        ) -> Deferred[None]: ...
        def connection_tune_ok(self, *, channel_max: int, frame_max: int, heartbeat: int) -> Deferred[None]: ...
        def connection_open(self, *, virtual_host: str) -> Deferred[Message]: ...
        def channel_open(self) -> Deferred[Message]: ...
        def channel_close_ok(self) -> Deferred[None]: ...
        def channel_flow_ok(self, *, active: bool) -> Deferred[None]: ...
        def confirm_select(self) -> Deferred[Message]: ...
        def exchange_declare(
            self,
            *,
            exchange: str,
            type: str,  # noqa: A002 - the argument's name in AMQP
            passive: bool = False,
            durable: bool = False,
        ) -> Deferred[Message]: ...
        def queue_declare(
            self, *, queue: str, passive: bool = False, durable: bool = False, arguments: Mapping[str, object] = ...
        ) -> Deferred[Message]: ...
        def queue_bind(self, *, queue: str, exchange: str, routing_key: str) -> Deferred[Message]: ...
        def basic_qos(self, *, prefetch_count: int) -> Deferred[Message]: ...
        def basic_consume(self, *, queue: str, consumer_tag: str) -> Deferred[Message]: ...
        def basic_cancel(self, *, consumer_tag: str, nowait: bool = False) -> Deferred[Message | None]: ...
        def basic_get(self, *, queue: str) -> Deferred[Message]: ...
        def basic_publish(self, *, routing_key: str, content: Content, mandatory: bool = False) -> Deferred[None]: ...
        def basic_ack(self, *, delivery_tag: int, multiple: bool = False) -> Deferred[None]: ...
        def basic_nack(self, *, delivery_tag: int, requeue: bool) -> Deferred[None]: ...
        def basic_reject(self, *, delivery_tag: int, requeue: bool) -> Deferred[None]: ...

else:
    _Methods = AMQChannel


class Channel(_Methods):
    """A channel, whose handlers are set by the code that opened it.

    The methods of AMQP, such as ``queue_declare``, are made by txAMQP from the specification. Each returns a Deferred
    that fires with the reply, or at once if the method has none, and fails with :exc:`txamqp.client.Closed` when the
    channel or its connection is closed.

    :ivar on_deliver: called with each delivered message.
    :ivar on_return: called with each message that the broker could not route.
    :ivar on_confirm: called with a delivery tag, whether it stands for all tags up to it, and whether the broker
        acknowledged the messages.
    :ivar on_cancel: called when the broker cancels a consumer.
    :ivar on_closed: called with the reason when the channel or its connection is closed.
    """

    client: Client
    closed: bool
    reason: object

    def __init__(self, channel_id: int, outgoing: Any, client: Client) -> None:
        super().__init__(channel_id, outgoing, client)
        self._replies: deque[tuple[Any, Deferred[Any]]] = deque()
        self._partial: _PartialMessage | None = None
        self.on_deliver: Callable[[Message], None] = self._ignore
        self.on_return: Callable[[Message], None] = self._ignore
        self.on_confirm: Callable[[int, bool, bool], None] = self._ignore
        self.on_cancel: Callable[[Message], None] = self._ignore
        self.on_closed: Callable[[object], None] = self._ignore

    def _ignore(self, *_: object) -> None:
        pass

    def invoke(self, method: Any, args: tuple[object, ...], content: Content | None = None) -> Deferred[Any]:
        """Send a method.

        :param method: its entry in txAMQP's specification.
        :return: fires with the reply, a txAMQP message, or with None at once if the method has no reply.
        :raises Closed: (asynchronously) the channel is closed, or is closed before the reply arrives.
        """
        if self.closed:
            return fail(self._error())
        frames = [Method(method, *args)]
        if method.content:
            frames += self._content_frames(method.klass, content or Content(b""))
        # All frames are packed before any is sent: after half of a message the connection could not be used.
        self.client.transport.write(b"".join([pack(Frame(self.id, payload)) for payload in frames]))
        if not method.responses or any(
            field.name == "nowait" and value for field, value in zip(method.fields, args, strict=True)
        ):
            return succeed(None)
        reply: Deferred[Any] = Deferred()
        self._replies.append((method, reply))
        return reply

    def _content_frames(self, klass: Any, content: Content) -> list[Header | Body]:
        body, chunk = content.body, self.client.frame_max - OVERHEAD
        return [
            Header(klass, 0, len(body), **content.properties),
            *(Body(body[start : start + chunk]) for start in range(0, len(body), chunk)),
        ]

    def frame_received(self, payload: Method | Header | Body) -> None:
        """Process a frame. If it completes a message, the message is handled.

        :raises FrameError: the frame is out of sequence.
        """
        if isinstance(payload, Method):
            if self._partial is not None:
                raise FrameError("a method was received instead of content")
            if payload.method.content:
                self._partial = _PartialMessage(payload)
            else:
                self._handle(Message(payload.method, list(payload.args)))
            return
        if self._partial is None:
            raise FrameError("content was received without a method")
        self._partial.add(payload)
        if self._partial.complete:
            message, self._partial = self._partial.message(), None
            self._handle(message)

    def _handle(self, message: Message) -> None:
        if not message.method.response:
            self.client.delegate.dispatch(self, message)
            return
        if not self._replies:
            raise FrameError("a reply was received without a request")
        method, reply = self._replies.popleft()
        if message.method not in method.responses:
            reply.errback(Closed("the reply does not match the request"))
            raise FrameError("a reply does not match its request")
        reply.callback(message)

    def do_close(self, reason: object) -> None:
        """Fail the requests that wait for replies. txAMQP calls this when the channel or its connection is closed."""
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        waiting, self._replies = self._replies, deque()
        for _, reply in waiting:
            reply.errback(self._error())
        self.on_closed(reason)

    def _error(self) -> Closed:
        if isinstance(self.reason, Message):
            kind = ChannelClosed if self.reason.method.klass.name == "channel" else ConnectionClosed
            return kind(f"{self.reason.reply_code} {self.reason.reply_text}")
        return Closed(close_reason(self.reason) if self.reason else "connection lost")


class _PartialMessage:
    """A message with content whose frames have not all been received."""

    def __init__(self, method: Method) -> None:
        self._method = method
        # txAMQP's Header, once it was received.
        self._header: Any = None
        self._body = bytearray()
        self._received = 0

    def add(self, payload: Header | Body) -> None:
        """Add a frame.

        :raises FrameError: the frame is out of sequence, or the body is longer than its header says.
        """
        if isinstance(payload, Header) == (self._header is not None):
            raise FrameError("content was received out of sequence")
        if isinstance(payload, Header):
            self._header = payload
        else:
            self._body += payload.content[: MAX_BODY - len(self._body)]
            self._received += len(payload.content)
        if self._received > self._header.size:
            raise FrameError("a message is longer than its header says")

    @property
    def complete(self) -> bool:
        return self._header is not None and bool(self._received == self._header.size)

    def message(self) -> Message:
        content = ReceivedContent(bytes(self._body), properties=self._header.properties)
        content.missing = self._received - len(self._body)
        return Message(self._method.method, list(self._method.args), content)


def close_reason(reason: object) -> str:
    """Describe in one short line why a connection failed or was lost.

    :param reason: a Failure, the broker's closing message, or any other object that txAMQP passes as the reason.
    """
    if isinstance(reason, Failure):
        reason = reason.getErrorMessage()
    elif isinstance(reason, Message):
        reason = f"{reason.reply_code} {reason.reply_text}"
    return one_line(reason, 300)
