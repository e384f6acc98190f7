"""The consumer: it receives messages from a queue, passes them to a handler, and acknowledges them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs
from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from txamqp.message import Message

from barbtx.queue.amqp.acknowledgements import Acknowledgements
from barbtx.queue.amqp.channel import MAX_BODY, Channel
from barbtx.queue.amqp.confirms import Confirms
from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.amqp.protocol import Client
from barbtx.queue.amqp.republishing import copy_of, dead_letter
from barbtx.queue.transport import InvalidMessage, PublishRefused
from barbtx.reactor import IReactor

log = Logger()

_TAG = "barbtx"
# Seconds after which a consumer without messages in flight looks for work that has none. It would otherwise look after
# each message if the messages are few.
_LOOK_DELAY = 0.2
# Seconds before a message that could not be republished is returned to its queue, so that it is not redelivered in a
# hot loop.
_REQUEUE_DELAY = 1.0


class Requeue(Exception):
    """The message must go to the end of a queue.

    :ivar queue: name of the queue, which may be the one from which the message came.
    """

    def __init__(self, queue: str, reason: str) -> None:
        super().__init__(reason)
        self.queue = queue


class Source(Protocol):
    """A queue to consume from."""

    @property
    def name(self) -> str:
        """Kind of the messages, in logs and in the connection's name."""

    @property
    def queue(self) -> str:
        """Name of the queue."""

    @property
    def dead_queue(self) -> str:
        """Name of the queue for messages that can never be handled."""

    async def declare(self, channel: Channel) -> None:
        """Declare the queues.

        :raises ChannelClosed: a queue cannot be declared.
        """


@attrs.define(eq=False)
class _Session:
    """A connection, its channel and the confirms and acknowledgements on it.

    Messages can be acknowledged only where they were delivered.
    """

    client: Client
    channel: Channel
    confirms: Confirms
    acknowledgements: Acknowledgements

    def close(self) -> None:
        """Close the connection. The broker redelivers the messages that were not acknowledged."""
        self.confirms.lose()
        if self.client.transport is not None:
            self.client.transport.loseConnection()


@attrs.define(eq=False)
class Consumer(Service):
    """Handles messages concurrently, and acknowledges each one after it was handled (at-least-once delivery).

    :ivar handle: handles the body of a message. If it raises :class:`InvalidMessage`, the message goes to the dead
        letter queue; :class:`Requeue` sends a copy to the end of a queue; after any other exception the broker
        redelivers the message.
    :ivar heartbeat: heartbeat interval in seconds.
    :ivar concurrency: maximum number of calls of ``handle`` and ``process_next`` that run at the same time, and the
        prefetch count. What a lost connection delivered counts until it was handled.
    :ivar grace: seconds for which a stopping service waits for messages in flight. The others are redelivered.
    :ivar refuse: see :func:`~barbtx.queue.amqp.connection.client_service`.
    :ivar release: called when messages are still in flight after the grace period, to release their leases.
    :ivar process_next: called when no message is in flight some time after one was. Processes work for which no
        message was received, and returns whether there was any.
    :ivar unfinished: whether messages were still in flight when the grace period ended.
    """

    reactor: IReactor
    brokers: Brokers
    source: Source
    handle: Callable[[bytes], Awaitable[None]]
    heartbeat: float
    concurrency: int
    grace: float
    refuse: Callable[[str], None] | None = None
    release: Callable[[], Awaitable[None]] | None = None
    process_next: Callable[[], Awaitable[bool]] | None = None
    unfinished: bool = attrs.field(default=False, init=False)
    _connection: ClientService | None = attrs.field(default=None, init=False)
    _session: _Session | None = attrs.field(default=None, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _in_flight: int = attrs.field(default=0, init=False)
    _look: IDelayedCall | None = attrs.field(default=None, init=False)
    _processing_next: bool = attrs.field(default=False, init=False)
    _slots: DeferredSemaphore = attrs.field(
        default=attrs.Factory(lambda self: DeferredSemaphore(self.concurrency), takes_self=True), init=False
    )
    _idle: Deferred[None] | None = attrs.field(default=None, init=False)

    def startService(self) -> None:
        """Start to connect and to consume."""
        super().startService()
        self._connection = client_service(
            self.reactor, self.brokers, f"barbtx {self.source.name}", self.heartbeat, self._prepare, self.refuse
        )
        self._connection.startService()

    def stopService(self) -> Deferred[None]:
        """Stop consuming, wait for the messages in flight, and disconnect."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def gauges(self) -> dict[str, object]:
        """Return the state of the consumer, for the status report."""
        return {"connected": self._session is not None, "messages in flight": self._in_flight}

    async def _stop(self) -> None:
        self._stopping = True
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._session is not None:
            self._session.channel.basic_cancel(consumer_tag=_TAG, nowait=True)
        if self._in_flight or self._processing_next:
            self._idle = Deferred()
            in_time = self._idle.addCallback(lambda _: True).addTimeout(self.grace, self.reactor, lambda *_: False)
            self.unfinished = not await in_time
        if self.unfinished:
            log.warn("{count} messages were not finished in time and are returned to the queue", count=self._in_flight)
            if self.release is not None:
                await self.release()
        if self._session is not None:
            self._session.acknowledgements.flush()
        if self._connection is not None:
            await self._connection.stopService()

    async def _prepare(self, client: Client) -> None:
        channel = await client.new_channel()
        await self.source.declare(channel)
        await channel.basic_qos(prefetch_count=self.concurrency)
        session = _Session(client, channel, await Confirms.enable(channel), Acknowledgements(self.reactor, channel))
        channel.on_deliver = lambda message: self._deliver(session, message)
        # The broker cancels a consumer when its queue is deleted. A new connection declares the queue again.
        channel.on_cancel = lambda message: session.close()
        channel.on_closed = lambda reason: self._lost(session)
        await channel.basic_consume(queue=self.source.queue, consumer_tag=_TAG)
        self._session = session
        log.info("consuming {name} from {queue}", name=self.source.name, queue=self.source.queue)

    def _lost(self, session: _Session) -> None:
        if self._session is session:
            self._session = None
        session.close()

    def _deliver(self, session: _Session, message: Message) -> None:
        if self._stopping:
            session.acknowledgements.requeue(message.delivery_tag)
            return
        self._in_flight += 1
        Deferred.fromCoroutine(self._process(session, message)).addBoth(self._processed, session)

    async def _process(self, session: _Session, message: Message) -> None:
        """Handle a message, and acknowledge it or return it to its queue."""
        tag, content = message.delivery_tag, message.content
        try:
            try:
                if content.missing:
                    raise InvalidMessage(f"the body is longer than {MAX_BODY} bytes; the rest was discarded")
                async with self._slots:
                    # Another delivery of it is handled, by this process or another one.
                    if self._stopping or session.channel.closed:
                        session.acknowledgements.requeue(tag)
                        return
                    await self.handle(content.body)
            except InvalidMessage as problem:
                log.error(
                    "{name}: moving a message to {queue}: {reason}",
                    name=self.source.name,
                    queue=self.source.dead_queue,
                    reason=str(problem),
                )
                await session.confirms.publish(
                    self.source.dead_queue, dead_letter(content, str(problem), self.source.queue)
                )
            except Requeue as requeue:
                log.info(
                    "{name}: moving a message to the end of {queue}: {reason}",
                    name=self.source.name,
                    queue=requeue.queue,
                    reason=str(requeue),
                )
                await session.confirms.publish(requeue.queue, copy_of(content))
            except Exception:
                log.failure("{name}: handling a message failed; it is returned to the queue", name=self.source.name)
                session.acknowledgements.reject(tag)
                return
            session.acknowledgements.acknowledge(tag)
        except PublishRefused as problem:
            log.warn("a message could not be republished and is returned to the queue: {reason}", reason=str(problem))
            await deferLater(self.reactor, _REQUEUE_DELAY, lambda: None)
            session.acknowledgements.requeue(tag)

    def _processed(self, outcome: object, session: _Session) -> None:
        if isinstance(outcome, Failure):
            log.failure(
                "{name}: a message was neither acknowledged nor returned; closing the connection, so that it is "
                "delivered again",
                failure=outcome,
                name=self.source.name,
            )
            session.close()
        self._in_flight -= 1
        if not self._in_flight and self._look is None and self.process_next is not None and not self._stopping:
            self._look = self.reactor.callLater(_LOOK_DELAY, self._look_for_work, self.process_next)
        self._fire_if_idle()

    def _look_for_work(self, process_next: Callable[[], Awaitable[bool]]) -> None:
        self._look = None
        if not self._in_flight and not self._processing_next:
            self._processing_next = True
            Deferred.fromCoroutine(self._process_until_none_left(process_next)).addBoth(self._none_left)

    async def _process_until_none_left(self, process_next: Callable[[], Awaitable[bool]]) -> None:
        """Process work without messages, until there is none or a message is delivered."""

        async def process_one() -> bool:
            async with self._slots:
                return not self._stopping and not self._in_flight and await process_next()

        async def loop() -> None:
            while await process_one():
                pass

        if await process_one():
            # The messages of many orders may be lost.
            await gatherResults([Deferred.fromCoroutine(loop()) for _ in range(self.concurrency)], consumeErrors=True)

    def _none_left(self, outcome: object) -> None:
        if isinstance(outcome, Failure):
            log.failure("{name}: processing work without a message failed", failure=outcome, name=self.source.name)
        self._processing_next = False
        self._fire_if_idle()

    def _fire_if_idle(self) -> None:
        if self._idle is not None and not (self._in_flight or self._processing_next or self._idle.called):
            self._idle.callback(None)
