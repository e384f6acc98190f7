"""A connection to RabbitMQ, built on txAMQP's client and delegate.

In contrast to txAMQP 0.8.2, frames are read in linear time and have a bounded size; frame size and heartbeat are
negotiated, and a silent broker ends the connection; returned messages, confirms, cancelled consumers and blocked
connections are reported; data that cannot be decoded ends the connection, which would otherwise hang.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from txamqp.client import TwistedDelegate
from txamqp.connection import Frame, Heartbeat
from txamqp.message import Message
from txamqp.protocol import AMQClient
from txamqp.spec import Spec, load

from barbtx import __version__
from barbtx.queue.amqp.channel import Channel, close_reason
from barbtx.queue.amqp.frames import FrameBuffer, pack

log = Logger()

#: Maximum size of a frame in bytes, unless the broker proposes a smaller one.
FRAME_MAX = 131072
_CAPABILITIES = {
    "publisher_confirms": True,
    "consumer_cancel_notify": True,
    "basic.nack": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


def load_spec() -> Spec:
    """Load the specification of AMQP 0-9-1 with RabbitMQ's extensions, which txAMQP does not include."""
    with as_file(files(__package__) / "amqp0-9-1.xml") as path:
        return load(str(path))


class Delegate(TwistedDelegate):
    """Handles the methods that the broker sends without a request. txAMQP calls the method of the same name."""

    client: Client

    def connection_start(self, channel: Channel, message: Message) -> None:
        """Log in."""
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
        """Negotiate limits."""
        self.client.tune(message.channel_max, message.frame_max, message.heartbeat)

    def connection_blocked(self, channel: Channel, message: Message) -> None:
        """Stop publishing, because the broker is low on memory or disk space."""
        log.warn(
            "{name}: the broker has suspended publishing: {reason}",
            name=self.client.name,
            reason=message.reason,
            log_outage=True,
        )
        self.client.blocked = True

    def connection_unblocked(self, channel: Channel, message: Message) -> None:
        """Publish again."""
        log.info("{name}: the broker has resumed publishing", name=self.client.name)
        self.client.blocked = False

    def channel_flow(self, channel: Channel, message: Message) -> None:
        """Stop or resume publishing."""
        self.client.blocked = not message.active
        channel.channel_flow_ok(active=message.active)

    def channel_close(self, channel: Channel, message: Message) -> None:
        """Close the channel, for the reason that the message gives."""
        # While a connection is being prepared, the code that prepares it logs this.
        if self.client.prepared:
            log.warn(
                "{name}: channel closed by the broker: {reason}",
                name=self.client.name,
                reason=close_reason(message),
                log_outage=True,
            )
        channel.channel_close_ok()
        self.client.channels.pop(channel.id, None)
        channel.do_close(message)

    def connection_close(self, channel: Channel, message: Message) -> None:
        """Close the connection, for the reason that the message gives."""
        if self.client.prepared:
            log.warn(
                "{name}: connection closed by the broker: {reason}",
                name=self.client.name,
                reason=close_reason(message),
                log_outage=True,
            )
        super().connection_close(channel, message)

    def basic_deliver(self, channel: Channel, message: Message) -> None:
        """Pass a delivered message to the channel's handler."""
        channel.on_deliver(message)

    def basic_return_(self, channel: Channel, message: Message) -> None:
        """Pass an unroutable message to the channel's handler."""
        channel.on_return(message)

    def basic_cancel(self, channel: Channel, message: Message) -> None:
        """Pass the end of a consumer to the channel's handler."""
        channel.on_cancel(message)

    def basic_ack(self, channel: Channel, message: Message) -> None:
        """Pass a positive confirm to the channel's handler."""
        channel.on_confirm(message.delivery_tag, message.multiple, True)

    def basic_nack(self, channel: Channel, message: Message) -> None:
        """Pass a negative confirm to the channel's handler."""
        channel.on_confirm(message.delivery_tag, message.multiple, False)


class Client(AMQClient):
    """A connection.

    :ivar prepared: whether the connection may be used; set by the code that prepares it.
    :ivar blocked: whether the broker accepts no messages at the moment.
    :ivar credentials: user name and password.
    :ivar name: name of the connection in the log and in RabbitMQ's management interface.
    :ivar frame_max: maximum size of a frame in bytes.
    """

    channelClass = Channel
    channels: dict[int, Channel]
    clock: IReactorTime

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
        """Send the protocol header of AMQP 0-9-1."""
        self.transport.write(b"AMQP\x00\x00\x09\x01")

    def connectionMade(self) -> None:
        """Open channel 0, on which the handshake takes place."""
        self._silent_since = self.clock.seconds()
        self._open_channel(0)
        super().connectionMade()

    async def open(self) -> None:
        """Wait for the end of the handshake and open the virtual host.

        :raises Closed: the broker refuses it, or the connection is lost.
        """
        await self.started.wait()
        await self.channels[0].connection_open(virtual_host=self.vhost)

    async def new_channel(self) -> Channel:
        """Open a channel, with an ID that was not used before on this connection.

        :raises Closed: the broker refuses it, or the connection is lost.
        """
        self._last_channel += 1
        channel = self._open_channel(self._last_channel)
        await channel.channel_open()
        return channel

    def _open_channel(self, channel_id: int) -> Channel:
        channel = cast(Channel, self.channelFactory(channel_id, self.outgoing, self))
        self.channels[channel_id] = channel
        return channel

    def tune(self, channel_max: int, frame_max: int, heartbeat: int) -> None:
        """Accept the smaller of the broker's and barbtx's limits, and start the heartbeat.

        :param channel_max: the broker's maximum number of channels.
        :param frame_max: the broker's maximum frame size in bytes; 0 means no limit.
        :param heartbeat: the broker's heartbeat interval in seconds; 0 means none.
        """
        self.frame_max = self._frames.max_size = min(frame_max or FRAME_MAX, FRAME_MAX)
        seconds = max(1, round(min(heartbeat or self._wanted_heartbeat, self._wanted_heartbeat)))
        self.channels[0].connection_tune_ok(channel_max=channel_max, frame_max=self.frame_max, heartbeat=seconds)
        self._heartbeat = LoopingCall(self._beat, seconds * 2)
        self._heartbeat.clock = self.clock
        self._heartbeat.start(seconds / 2, now=False)
        self.started.fire()

    def _beat(self, timeout: float) -> None:
        if self.clock.seconds() - self._silent_since > timeout:
            log.warn("{name}: no heartbeat from the broker; closing the connection", name=self.name, log_outage=True)
            self.transport.abortConnection()
        else:
            self.send_frame(Frame(0, Heartbeat()))

    def send_frame(self, frame: Frame) -> None:
        """Send a frame. txAMQP would encode it with its own codec."""
        self.transport.write(pack(frame))

    def dataReceived(self, data: bytes) -> None:
        """Pass complete frames to their channels. Invalid data ends the connection."""
        self._silent_since = self.clock.seconds()
        try:
            for frame in self._frames.feed(data):
                channel = self.channels.get(frame.channel)
                if channel is not None and not isinstance(frame.payload, Heartbeat):
                    channel.frame_received(frame.payload)
        except Exception:
            log.failure("{name}: processing received data failed; closing the connection", name=self.name)
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        """Log the loss of a connection that was in use, and fail its requests."""
        # If this side closed the connection, the reason is already logged.
        if self.prepared and not getattr(self.transport, "disconnecting", False):
            peer = self.transport.getPeer()
            log.warn(
                "{name}: the connection to the broker at {host}:{port} was lost: {reason}",
                name=self.name,
                host=peer.host,
                port=peer.port,
                reason=close_reason(reason),
                log_outage=True,
            )
        if self._heartbeat is not None and self._heartbeat.running:
            self._heartbeat.stop()
        super().connectionLost(reason)
