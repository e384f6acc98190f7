"""One connection to RabbitMQ: txAMQP's client, channel and delegate, made fit for use.

What differs from txAMQP 0.8.2: frames are read in linear time and bounded; bodies are bytes; replies are matched to the
calls they answer; frame size and heartbeat are negotiated, and a silent broker is given up; acknowledgements of
publishes, returns, cancellations and blocking reach whoever asked for them; whatever cannot be understood ends the
connection instead of hanging it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from importlib.resources import as_file, files
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from txamqp.client import ChannelClosed, Closed, ConnectionClosed, TwistedDelegate
from txamqp.connection import Body, Frame, Header, Heartbeat, Method
from txamqp.content import Content
from txamqp.message import Message
from txamqp.protocol import AMQChannel, AMQClient
from txamqp.spec import Spec, load

from barbtx import __version__
from barbtx.queue.amqp.frames import OVERHEAD, FrameBuffer, FrameError, pack

log = Logger()

FRAME_MAX = 131072
#: Bytes of a message's body that are kept.
MAX_BODY = 1 << 20
_CAPABILITIES = {
    "publisher_confirms": True,
    "consumer_cancel_notify": True,
    "basic.nack": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


def load_spec() -> Spec:
    """AMQP 0-9-1 with RabbitMQ's extensions; txAMQP's own default is not part of its package."""
    with as_file(files(__package__) / "amqp0-9-1.xml") as path:
        return load(str(path))


class Received(Content):
    """The content of a message from the broker.

    :ivar missing: how many bytes of the body were left out, because it is longer than :data:`MAX_BODY`.
    """

    missing = 0


class Channel(AMQChannel):
    """A channel. Its handlers are for whoever opened it to set.

    :ivar on_deliver: called with each delivered message.
    :ivar on_return: called with each message that the broker could not route.
    :ivar on_confirm: called with delivery tag, whether all up to it are meant, and whether the broker took them.
    :ivar on_cancel: called when the broker ends a consumer.
    :ivar on_closed: called with the reason when the channel, or its connection, is closed.
    """

    def __init__(self, id: int, outgoing: Any, client: Client) -> None:
        super().__init__(id, outgoing, client)
        self._replies: deque[tuple[Any, Deferred[Message]]] = deque()
        self._partial: list[Any] | None = None
        self.on_deliver: Callable[[Message], None] = self._ignore
        self.on_return: Callable[[Message], None] = self._ignore
        self.on_confirm: Callable[[int, bool, bool], None] = self._ignore
        self.on_cancel: Callable[[Message], None] = self._ignore
        self.on_closed: Callable[[object], None] = self._ignore

    def _ignore(self, *_: object) -> None:
        pass

    def invoke(self, method: Any, args: tuple, content: Content | None = None) -> Deferred[Message | None]:
        """Send a method; fires with the reply, or at once if none is due.

        :raises Closed: (asynchronously) the channel is, or becomes, closed.
        """
        if self.closed:
            return fail(self._error())
        frames = [Method(method, *args)]
        if method.content:
            frames += self._content_frames(method.klass, content or Content(b""))
        # All are packed before any is sent: half a message would cost the connection.
        self.client.transport.write(b"".join([pack(Frame(self.id, payload)) for payload in frames]))
        nowait = any(field.name == "nowait" and value for field, value in zip(method.fields, args))
        if nowait or not method.responses:
            return succeed(None)
        reply: Deferred[Message] = Deferred()
        self._replies.append((method, reply))
        return reply

    def _content_frames(self, klass: Any, content: Content) -> list[Header | Body]:
        body, chunk = content.body, self.client.frame_max - OVERHEAD
        return [
            Header(klass, 0, len(body), **content.properties),
            *(Body(body[start : start + chunk]) for start in range(0, len(body), chunk)),
        ]

    def frame_received(self, payload: Method | Header | Body) -> None:
        """Take a frame; handle the message that it completes, if it does.

        :raises FrameError: it is out of place.
        """
        if isinstance(payload, Method):
            if self._partial is not None:
                raise FrameError("a method came where content was due")
            if payload.method.content:
                self._partial = [payload, None, bytearray(), 0]
            else:
                self._handle(Message(payload.method, list(payload.args)))
            return
        if self._partial is None or isinstance(payload, Header) == (self._partial[1] is not None):
            raise FrameError("content came where none was due")
        if isinstance(payload, Header):
            self._partial[1] = payload
        else:
            self._partial[2] += payload.content[: MAX_BODY - len(self._partial[2])]
            self._partial[3] += len(payload.content)
        method, header, body, arrived = self._partial
        if arrived > header.size:
            raise FrameError("a message is longer than it said")
        if arrived == header.size:
            self._partial = None
            content = Received(bytes(body), properties=header.properties)
            content.missing = arrived - len(body)
            self._handle(Message(method.method, list(method.args), content))

    def _handle(self, message: Message) -> None:
        if not message.method.response:
            self.client.delegate.dispatch(self, message)
            return
        if not self._replies:
            raise FrameError("a reply came where none was due")
        method, reply = self._replies.popleft()
        if message.method not in method.responses:
            reply.errback(Closed("the reply is not to this call"))
            raise FrameError("a reply came that is not to the call")
        reply.callback(message)

    def do_close(self, reason: object) -> None:
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
        return Closed(one_line(self.reason) if self.reason else "connection lost")


def one_line(reason: object) -> str:
    """Why a connection failed or was lost, in one short line.

    :param reason: a Failure, the broker's last message, or whatever else txAMQP took for one.
    """
    if isinstance(reason, Failure):
        reason = reason.getErrorMessage()
    elif isinstance(reason, Message):
        reason = f"{reason.reply_code} {reason.reply_text}"
    return " ".join(str(reason).split())[:300]


class Delegate(TwistedDelegate):
    """What the broker may say of its own accord."""

    def connection_start(self, channel: Channel, message: Message) -> None:
        client = self.client
        user, password = client.credentials
        channel.connection_start_ok(
            client_properties={
                "product": "barbtx",
                "version": __version__,
                "connection_name": client.name,
                "capabilities": _CAPABILITIES,
            },
            mechanism="PLAIN",
            response=b"\0" + user.encode() + b"\0" + password.encode(),
            locale="en_US",
        )

    def connection_tune(self, channel: Channel, message: Message) -> None:
        self.client.tune(message.channel_max, message.frame_max, message.heartbeat)

    def connection_blocked(self, channel: Channel, message: Message) -> None:
        log.warn(
            "{name}: the broker takes no messages: {reason}",
            name=self.client.name,
            reason=message.reason,
            log_outage=True,
        )
        self.client.blocked = True

    def connection_unblocked(self, channel: Channel, message: Message) -> None:
        log.info("{name}: the broker takes messages again", name=self.client.name)
        self.client.blocked = False

    def channel_flow(self, channel: Channel, message: Message) -> None:
        self.client.blocked = not message.active
        channel.channel_flow_ok(active=message.active)

    def channel_close(self, channel: Channel, message: Message) -> None:
        # While a connection is prepared, whoever prepares it says so.
        if self.client.prepared:
            log.warn(
                "{name}: channel closed by the broker: {reason}",
                name=self.client.name,
                reason=one_line(message),
                log_outage=True,
            )
        channel.channel_close_ok()
        self.client.channels.pop(channel.id, None)
        channel.do_close(message)

    def connection_close(self, channel: Channel, message: Message) -> None:
        if self.client.prepared:
            log.warn(
                "{name}: connection closed by the broker: {reason}",
                name=self.client.name,
                reason=one_line(message),
                log_outage=True,
            )
        super().connection_close(channel, message)

    def basic_deliver(self, channel: Channel, message: Message) -> None:
        channel.on_deliver(message)

    def basic_return_(self, channel: Channel, message: Message) -> None:
        channel.on_return(message)

    def basic_cancel(self, channel: Channel, message: Message) -> None:
        channel.on_cancel(message)

    def basic_ack(self, channel: Channel, message: Message) -> None:
        channel.on_confirm(message.delivery_tag, message.multiple, True)

    def basic_nack(self, channel: Channel, message: Message) -> None:
        channel.on_confirm(message.delivery_tag, message.multiple, False)


class Client(AMQClient):
    """A connection.

    :ivar prepared: whether it may be used; set by whoever prepared it.
    :ivar blocked: whether the broker has asked not to be sent messages.
    :ivar credentials: user name and password.
    :ivar name: what the connection is called in the broker's management and in our log.
    """

    channelClass = Channel

    def __init__(
        self, spec: Spec, clock: IReactorTime, vhost: str, credentials: tuple[str, str], name: str, heartbeat: float
    ) -> None:
        super().__init__(Delegate(), vhost, spec, heartbeat=0, clock=clock)
        self.credentials = credentials
        self.name = name
        self.prepared = False
        self.blocked = False
        self.frame_max = FRAME_MAX
        self._wanted_heartbeat = heartbeat
        self._heartbeat: LoopingCall | None = None
        self._silent_since = 0.0
        self._frames = FrameBuffer(spec, FRAME_MAX)
        self._last_channel = 0

    def send_init_string(self) -> None:
        self.transport.write(b"AMQP\x00\x00\x09\x01")

    def connectionMade(self) -> None:
        self._silent_since = self.clock.seconds()
        self._open_channel(0)
        super().connectionMade()

    async def open(self) -> None:
        """Wait for the handshake and enter the virtual host.

        :raises Closed: the broker refuses, or the connection is lost.
        """
        await self.started.wait()
        await self.channels[0].connection_open(virtual_host=self.vhost)

    async def new_channel(self) -> Channel:
        """Open a channel, under an id that was not used before on this connection."""
        self._last_channel += 1
        channel = self._open_channel(self._last_channel)
        await channel.channel_open()
        return channel

    def _open_channel(self, id: int) -> Channel:
        channel = self.channels[id] = self.channelFactory(id, self.outgoing, self)
        return channel

    def tune(self, channel_max: int, frame_max: int, heartbeat: int) -> None:
        """Agree on limits: the smaller of the broker's and ours (0 means none)."""
        self.frame_max = self._frames.max_size = min(frame_max or FRAME_MAX, FRAME_MAX)
        seconds = max(1, round(min(heartbeat or self._wanted_heartbeat, self._wanted_heartbeat)))
        self.channels[0].connection_tune_ok(channel_max=channel_max, frame_max=self.frame_max, heartbeat=seconds)
        self._heartbeat = LoopingCall(self._beat, seconds * 2)
        self._heartbeat.clock = self.clock
        self._heartbeat.start(seconds / 2, now=False)
        self.started.fire()

    def _beat(self, timeout: float) -> None:
        if self.clock.seconds() - self._silent_since > timeout:
            log.warn("{name}: the broker is silent; giving up the connection", name=self.name, log_outage=True)
            self.transport.abortConnection()
        else:
            self.send_frame(Frame(0, Heartbeat()))

    def send_frame(self, frame: Frame) -> None:
        self.transport.write(pack(frame))

    def dataReceived(self, data: bytes) -> None:
        self._silent_since = self.clock.seconds()
        try:
            for frame in self._frames.feed(data):
                channel = self.channels.get(frame.channel)
                if channel is not None and not isinstance(frame.payload, Heartbeat):
                    channel.frame_received(frame.payload)
        except Exception:
            log.failure("{name}: giving up the connection", name=self.name)
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        # Whoever closes it has said why.
        if self.prepared and not getattr(self.transport, "disconnecting", False):
            peer = self.transport.getPeer()
            log.warn(
                "{name}: the connection to the broker at {host}:{port} was lost: {reason}",
                name=self.name,
                host=peer.host,
                port=peer.port,
                reason=one_line(reason),
                log_outage=True,
            )
        if self._heartbeat is not None and self._heartbeat.running:
            self._heartbeat.stop()
        super().connectionLost(reason)
