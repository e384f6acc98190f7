"""The transport that publishes tasks to RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import attrs
from oslo_config import cfg
from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from txamqp.content import Content
from zope.interface import implementer

from barbtx.queue.amqp.confirms import Confirms
from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.amqp.protocol import Client
from barbtx.queue.amqp.topology import Topology
from barbtx.queue.transport import ITransport, PublishRefused, TaskMessage, encode
from barbtx.reactor import IReactor

log = Logger()


@implementer(ITransport)
@attrs.define(eq=False)
class AMQPTransport(Service):
    """Publishes persistent messages with publisher confirms, on its own connection.

    :ivar namespace: namespace in the messages.
    :ivar version: version in the messages, ``major.minor``.
    :ivar heartbeat: heartbeat interval in seconds.
    :ivar max_unconfirmed: maximum number of unconfirmed messages; further ones are refused.
    :ivar refuse: see :func:`~barbtx.queue.amqp.connection.client_service`.
    """

    permits: ClassVar[bool] = True

    reactor: IReactor
    brokers: Brokers
    topology: Topology
    namespace: str
    version: str
    heartbeat: float
    max_unconfirmed: int
    refuse: Callable[[str], None] | None = None
    _connection: ClientService | None = attrs.field(default=None, init=False)
    _client: Client | None = attrs.field(default=None, init=False)
    _confirms: Confirms | None = attrs.field(default=None, init=False)

    @classmethod
    def from_config(cls, reactor: IReactor, conf: cfg.ConfigOpts, refuse: Callable[[str], None]) -> AMQPTransport:
        """Make the transport with the options of ``[queue]``.

        :raises ConfigurationError: the transport URL is invalid, or a file for TLS cannot be used.
        """
        queue = conf.queue
        return cls(
            reactor,
            Brokers.from_config(conf),
            Topology.from_config(conf),
            queue.namespace,
            queue.version,
            queue.heartbeat_seconds,
            queue.max_unconfirmed,
            refuse,
        )

    def startService(self) -> None:
        """Start to connect."""
        super().startService()
        self._connection = client_service(
            self.reactor, self.brokers, "barbtx publisher", self.heartbeat, self._prepare, self.refuse
        )
        self._connection.startService()

    def stopService(self) -> Deferred[None] | None:
        """Disconnect. Unconfirmed messages fail."""
        super().stopService()
        return None if self._connection is None else self._connection.stopService()

    @property
    def ready(self) -> bool:
        """Whether the transport is connected, the broker is not blocking it, and a further message may be sent."""
        return self._usable_confirms() is not None

    def _usable_confirms(self) -> Confirms | None:
        confirms, client = self._confirms, self._client
        if confirms is None or client is None or client.blocked or len(confirms) >= self.max_unconfirmed:
            return None
        return confirms

    def send(self, message: TaskMessage) -> Deferred[None]:
        """Publish a message; fires when the broker has confirmed it.

        :raises PublishRefused: (asynchronously) the transport is not ready, or the broker did not confirm the message.
        """
        confirms = self._usable_confirms()
        if confirms is None:
            return fail(PublishRefused("the broker is unavailable or does not accept messages now"))
        return confirms.publish(
            self.topology.queue_of(message.lane),
            Content(
                encode(message, self.namespace, self.version),
                properties={"content-type": "application/json", "delivery-mode": 2},
            ),
        )

    def gauges(self) -> dict[str, object]:
        """Return the state of the connection, for the status report."""
        return {"connected": self._confirms is not None, "unconfirmed": len(self._confirms or ())}

    async def _prepare(self, client: Client) -> None:
        channel = await client.new_channel()
        await self.topology.declare(channel)
        # If a queue was deleted, the next connection declares it again.
        self._confirms = await Confirms.enable(channel, lambda: self._lost(client))
        channel.on_closed = lambda reason: self._lost(client)
        self._client = client

    def _lost(self, client: Client) -> None:
        confirms, self._confirms = self._confirms, None
        if confirms is not None:
            confirms.lose()
        # If the broker closed only the channel, the connection is still open.
        if client.transport is not None:
            client.transport.loseConnection()
