"""Taking messages from the broker and running what they ask for."""

from __future__ import annotations

from typing import Any

import attrs
from oslo_config import cfg
from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from txamqp.client import Closed
from txamqp.message import Message

from barbtx.queue.amqp.connection import Broker, client_service
from barbtx.queue.amqp.protocol import Channel, Client
from barbtx.queue.amqp.topology import Topology
from barbtx.queue.server import Tasks
from barbtx.queue.transport import BadMessage, decode

log = Logger()


@attrs.define(eq=False)
class TaskConsumer(Service):
    """Runs tasks, so many at a time, and acknowledges each when it has ended.

    :ivar concurrency: tasks in hand at the same time; the broker sends no more than that.
    :ivar grace: seconds for which a stopping service waits for what it has in hand; the rest goes back to the queue.
    """

    reactor: Any
    broker: Broker
    topology: Topology
    tasks: Tasks
    namespace: str
    version: str
    heartbeat: float
    concurrency: int
    grace: float
    _connection: ClientService | None = attrs.field(default=None, init=False)
    _channel: Channel | None = attrs.field(default=None, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _in_hand: int = attrs.field(default=0, init=False)
    _idle: Deferred[None] | None = attrs.field(default=None, init=False)

    @classmethod
    def from_config(cls, reactor: Any, conf: cfg.ConfigOpts, tasks: Tasks) -> TaskConsumer:
        queue = conf.queue
        return cls(reactor, Broker.from_url(conf.transport_url), Topology.from_config(conf), tasks, queue.namespace,
                   queue.version, queue.heartbeat_seconds, queue.asynchronous_workers, queue.shutdown_seconds)

    def startService(self) -> None:
        super().startService()
        self._connection = client_service(self.reactor, self.broker, "barbtx consumer", self.heartbeat, self._prepare)
        self._connection.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        if self._channel is not None:
            self._channel.basic_cancel(consumer_tag="tasks", nowait=True)
        if self._in_hand:
            self._idle = Deferred()
            self._idle.addTimeout(self.grace, self.reactor, lambda *_: log.warn(
                "{count} tasks were not finished in time and go back to the queue", count=self._in_hand))
            await self._idle
        await self._connection.stopService()

    async def _prepare(self, client: Client) -> None:
        channel = await client.new_channel()
        await self.topology.declare(channel)
        await channel.basic_qos(prefetch_count=self.concurrency)
        channel.on_deliver = lambda message: self._take(channel, message)
        # The broker ends a consumer when its queue goes; a new connection declares the queue again.
        channel.on_cancel = lambda message: client.transport.loseConnection()
        channel.on_closed = lambda reason: self._lost(client)
        await channel.basic_consume(queue=self.topology.queue, consumer_tag="tasks")
        self._channel = channel
        log.info("taking tasks from {queue}", queue=self.topology.queue)

    def _lost(self, client: Client) -> None:
        self._channel = None
        if client.transport is not None:
            client.transport.loseConnection()

    def _take(self, channel: Channel, message: Message) -> None:
        if self._stopping:
            channel.basic_nack(delivery_tag=message.delivery_tag, requeue=True)
            return
        self._in_hand += 1
        Deferred.fromCoroutine(self._run(channel, message)).addBoth(self._ended)

    async def _run(self, channel: Channel, message: Message) -> None:
        tag = message.delivery_tag
        try:
            try:
                await self.tasks.dispatch(decode(message.content.body, self.namespace, self.version))
            except BadMessage as problem:
                log.error("a message goes to the dead letters: {reason}", reason=str(problem))
                await channel.basic_reject(delivery_tag=tag, requeue=False)
            except Exception:
                log.failure("a task failed in an unforeseen way and goes back to the queue")
                await channel.basic_reject(delivery_tag=tag, requeue=True)
            else:
                await channel.basic_ack(delivery_tag=tag)
        except Closed:
            log.info("the connection was lost before a task was acknowledged; it will be delivered again")

    def _ended(self, _: object) -> None:
        self._in_hand -= 1
        if self._idle is not None and not self._in_hand and not self._idle.called:
            self._idle.callback(None)
