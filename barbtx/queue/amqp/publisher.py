"""Sending messages so that the broker answers for each."""

from __future__ import annotations

from typing import Any

import attrs
from oslo_config import cfg
from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from txamqp.content import Content
from txamqp.message import Message
from zope.interface import implementer

from barbtx.queue.amqp.connection import Broker, client_service
from barbtx.queue.amqp.protocol import Channel, Client
from barbtx.queue.amqp.topology import Topology
from barbtx.queue.transport import ITransport, Refused, TaskMessage, encode

log = Logger()


@implementer(ITransport)
@attrs.define(eq=False)
class AMQPTransport(Service):
    """Publishes persistent messages with confirms, on a connection of its own.

    :ivar max_unconfirmed: messages that may wait for the broker's word; further ones are refused.
    """

    reactor: Any
    broker: Broker
    topology: Topology
    namespace: str
    version: str
    heartbeat: float
    max_unconfirmed: int
    _connection: ClientService | None = attrs.field(default=None, init=False)
    _client: Client | None = attrs.field(default=None, init=False)
    _channel: Channel | None = attrs.field(default=None, init=False)
    _next_tag: int = attrs.field(default=1, init=False)
    _unconfirmed: dict[int, Deferred[None]] = attrs.field(factory=dict, init=False)

    @classmethod
    def from_config(cls, reactor: Any, conf: cfg.ConfigOpts) -> AMQPTransport:
        queue = conf.queue
        return cls(reactor, Broker.from_url(conf.transport_url), Topology.from_config(conf), queue.namespace,
                   queue.version, queue.heartbeat_seconds, queue.max_unconfirmed)

    def startService(self) -> None:
        super().startService()
        self._connection = client_service(self.reactor, self.broker, "barbtx publisher", self.heartbeat, self._prepare)
        self._connection.startService()

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        return self._connection.stopService()

    @property
    def ready(self) -> bool:
        return (self._channel is not None and not self._client.blocked
                and len(self._unconfirmed) < self.max_unconfirmed)

    def send(self, message: TaskMessage) -> Deferred[None]:
        if not self.ready:
            return fail(Refused("the broker is out of reach, or takes no messages now"))
        tag = self._next_tag
        self._next_tag += 1
        confirmed: Deferred[None] = Deferred()
        self._unconfirmed[tag] = confirmed
        content = Content(encode(message, self.namespace, self.version), properties={
            "content-type": "application/json", "delivery-mode": 2, "message-id": str(tag),
        })
        self._channel.basic_publish(routing_key=self.topology.queue, mandatory=True, content=content)
        return confirmed

    async def _prepare(self, client: Client) -> None:
        channel = await client.new_channel()
        await self.topology.declare(channel)
        await channel.confirm_select()
        channel.on_confirm = self._confirm
        channel.on_return = self._returned
        channel.on_closed = lambda reason: self._lost(client)
        self._client, self._channel, self._next_tag = client, channel, 1
        log.info("connected to the broker at {host}:{port}", host=self.broker.host, port=self.broker.port)

    def _confirm(self, tag: int, multiple: bool, taken: bool) -> None:
        tags = [known for known in self._unconfirmed if known <= tag] if multiple else [tag]
        for known in tags:
            waiting = self._unconfirmed.pop(known, None)
            if waiting is None:
                continue
            if taken:
                waiting.callback(None)
            else:
                waiting.errback(Refused("the broker did not take the message"))

    def _returned(self, message: Message) -> None:
        # The return precedes the confirm of the same message, which then says no more than that it was dealt with.
        log.error("no queue {queue} at the broker: {text}", queue=self.topology.queue, text=message.reply_text)
        waiting = self._unconfirmed.pop(int(message.content["message-id"]), None)
        # The next connection declares what is missing.
        self._channel = None
        self._client.transport.loseConnection()
        if waiting is not None:
            waiting.errback(Refused("the broker has no queue for the message"))

    def _lost(self, client: Client) -> None:
        self._channel = None
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for waiting in unconfirmed.values():
            waiting.errback(Refused("the connection was lost before the broker answered"))
        # A channel closed by the broker leaves the connection open; without its channel it is of no use.
        if client.transport is not None:
            client.transport.loseConnection()
