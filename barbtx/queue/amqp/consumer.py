"""Taking messages from the broker and having them handled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import attrs
from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from txamqp.client import Closed
from txamqp.content import Content
from txamqp.message import Message

from barbtx.queue.amqp.confirms import Confirms
from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.amqp.protocol import Channel, Client
from barbtx.queue.transport import BadMessage, Refused

log = Logger()

#: Headers of a dead letter: why it is one, and where it came from.
REASON, ORIGIN = "x-barbtx-reason", "x-barbtx-queue"

_TAG = "barbtx"
# Seconds for which a message is kept that can neither be handled nor buried, so that it does not go round in circles.
_BEFORE_ANOTHER_TRY = 1.0


class Source(Protocol):
    """What to take messages from.

    :ivar name: what is taken, in logs and for the connection's name.
    :ivar queue: where it is taken from.
    :ivar dead_queue: where messages go that can never be handled.
    """

    name: str
    queue: str
    dead_queue: str

    async def declare(self, channel: Channel) -> None:
        """Make sure that the queues are there."""


@attrs.define(eq=False)
class Consumer(Service):
    """Has messages handled, so many at a time, and acknowledges each when that has ended.

    :ivar handle: handles the body of a message; what it raises decides what becomes of the message: a
        :class:`BadMessage` makes it a dead letter, anything else sends it back to the queue.
    :ivar concurrency: messages in hand at the same time; the broker sends no more than that.
    :ivar grace: seconds for which a stopping service waits for what it has in hand; the rest goes back to the queue.
    :ivar refuse: as in :func:`client_service`.
    :ivar give_back: called when that time is over, to let go of what was in hand.
    :ivar abandoned: whether it came to that.
    """

    reactor: Any
    brokers: Brokers
    source: Source
    handle: Callable[[bytes], Awaitable[None]]
    heartbeat: float
    concurrency: int
    grace: float
    refuse: Callable[[str], None] | None = None
    give_back: Callable[[], Awaitable[None]] | None = None
    abandoned: bool = attrs.field(default=False, init=False)
    _connection: ClientService | None = attrs.field(default=None, init=False)
    _channel: Channel | None = attrs.field(default=None, init=False)
    _confirms: Confirms | None = attrs.field(default=None, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _in_hand: int = attrs.field(default=0, init=False)
    _idle: Deferred[None] | None = attrs.field(default=None, init=False)

    def startService(self) -> None:
        super().startService()
        self._connection = client_service(self.reactor, self.brokers, f"barbtx {self.source.name}", self.heartbeat,
                                          self._prepare, self.refuse)
        self._connection.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {"connected": self._channel is not None, "messages in hand": self._in_hand}

    async def _stop(self) -> None:
        self._stopping = True
        if self._channel is not None:
            self._channel.basic_cancel(consumer_tag=_TAG, nowait=True)
        if self._in_hand:
            self._idle = Deferred()
            self.abandoned = await self._idle.addTimeout(self.grace, self.reactor, lambda *_: True) or False
        if self.abandoned:
            log.warn("{count} messages were not finished in time and go back to the queue", count=self._in_hand)
            if self.give_back is not None:
                await self.give_back()
        await self._connection.stopService()

    async def _prepare(self, client: Client) -> None:
        channel = await client.new_channel()
        await self.source.declare(channel)
        await channel.basic_qos(prefetch_count=self.concurrency)
        self._confirms = await Confirms.on(channel)
        channel.on_deliver = lambda message: self._take(channel, message)
        # The broker ends a consumer when its queue goes; a new connection declares the queue again.
        channel.on_cancel = lambda message: client.transport.loseConnection()
        channel.on_closed = lambda reason: self._lost(client)
        await channel.basic_consume(queue=self.source.queue, consumer_tag=_TAG)
        self._channel = channel
        log.info("taking {name} from {queue}", name=self.source.name, queue=self.source.queue)

    def _lost(self, client: Client) -> None:
        self._channel = None
        self._confirms.lost()
        if client.transport is not None:
            client.transport.loseConnection()

    def _take(self, channel: Channel, message: Message) -> None:
        if self._stopping:
            channel.basic_nack(delivery_tag=message.delivery_tag, requeue=True)
            return
        self._in_hand += 1
        Deferred.fromCoroutine(self._run(channel, self._confirms, message)).addBoth(self._ended)

    async def _run(self, channel: Channel, confirms: Confirms, message: Message) -> None:
        tag = message.delivery_tag
        try:
            try:
                await self.handle(message.content.body)
            except BadMessage as problem:
                await self._bury(confirms, message.content, str(problem))
            except Exception:
                log.failure("{name}: handling a message failed; it goes back to the queue", name=self.source.name)
                await channel.basic_reject(delivery_tag=tag, requeue=True)
                return
            await channel.basic_ack(delivery_tag=tag)
        except Closed:
            log.info("the connection was lost before a message was acknowledged; it will be delivered again")
        except Refused as problem:
            log.warn("a message could not become a dead letter and goes back to the queue: {reason}",
                     reason=str(problem))
            await deferLater(self.reactor, _BEFORE_ANOTHER_TRY, lambda: None)
            await channel.basic_nack(delivery_tag=tag, requeue=True)

    async def _bury(self, confirms: Confirms, content: Content, reason: str) -> None:
        """Make a message a dead letter: a copy with the reason, which is safe before the original is acknowledged.

        :raises Refused: the broker did not take the copy.
        """
        log.error("{name}: a message goes to {queue}: {reason}", name=self.source.name, queue=self.source.dead_queue,
                  reason=reason)
        headers = {**(content.properties.get("headers") or {}), REASON: reason, ORIGIN: self.source.queue}
        kept = {name: value for name, value in content.properties.items() if name not in ("expiration", "user-id")}
        await confirms.publish(self.source.dead_queue, Content(content.body, properties={
            **kept, "delivery-mode": 2, "headers": headers}))

    def _ended(self, outcome: object) -> None:
        if isinstance(outcome, Failure):
            log.failure("{name}: a message was lost sight of; the broker has it still", failure=outcome,
                        name=self.source.name)
            # Only a new connection gets it back.
            self._channel and self._channel.client.transport.loseConnection()
        self._in_hand -= 1
        if self._idle is not None and not self._in_hand and not self._idle.called:
            self._idle.callback(None)
