"""Sending tasks to the broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

log = Logger()


@implementer(ITransport)
@attrs.define(eq=False)
class AMQPTransport(Service):
    """Publishes persistent messages with confirms, on a connection of its own.

    :ivar max_unconfirmed: messages that may wait for the broker's word; further ones are refused.
    :ivar refuse: as in :func:`client_service`.
    """

    reactor: Any
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
    def from_config(cls, reactor: Any, conf: cfg.ConfigOpts, refuse: Callable[[str], None]) -> AMQPTransport:
        """:raises ConfigurationError: the brokers' addresses are none, or a file for TLS cannot be used."""
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
        super().startService()
        self._connection = client_service(
            self.reactor, self.brokers, "barbtx publisher", self.heartbeat, self._prepare, self.refuse
        )
        self._connection.startService()

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        return self._connection.stopService()

    @property
    def ready(self) -> bool:
        return self._confirms is not None and not self._client.blocked and len(self._confirms) < self.max_unconfirmed

    def send(self, message: TaskMessage) -> Deferred[None]:
        if not self.ready:
            return fail(PublishRefused("the broker is out of reach, or takes no messages now"))
        return self._confirms.publish(
            self.topology.queue_of(message.lane),
            Content(
                encode(message, self.namespace, self.version),
                properties={"content-type": "application/json", "delivery-mode": 2},
            ),
        )

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {"connected": self._confirms is not None, "unconfirmed": len(self._confirms or ())}

    async def _prepare(self, client: Client) -> None:
        channel = await client.new_channel()
        await self.topology.declare(channel)
        # A queue that is missing is declared by the next connection.
        self._confirms = await Confirms.on(channel, lambda: self._lost(client))
        channel.on_closed = lambda reason: self._lost(client)
        self._client = client

    def _lost(self, client: Client) -> None:
        confirms, self._confirms = self._confirms, None
        if confirms is not None:
            confirms.lost()
        # A channel closed by the broker leaves the connection open; without its channel it is of no use.
        if client.transport is not None:
            client.transport.loseConnection()
