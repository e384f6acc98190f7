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
from txamqp.message import Message

from barbtx.queue.amqp.confirms import Confirms
from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.amqp.protocol import MAX_BODY, Channel, Client
from barbtx.queue.amqp.republishing import copy_of, dead_letter
from barbtx.queue.transport import InvalidMessage, PublishRefused

log = Logger()

_TAG = "barbtx"
# Seconds for which a message is kept that can neither be handled nor sent on, so that it does not go round in circles.
_BEFORE_ANOTHER_TRY = 1.0


class Requeue(Exception):
    """The message is to go to the end of a queue, the same one or another.

    :ivar queue: its name.
    """

    def __init__(self, queue: str, reason: str) -> None:
        super().__init__(reason)
        self.queue = queue


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
class _Session:
    """A connection, its channel and the confirms on it: what was delivered there can be answered there only."""

    client: Client
    channel: Channel
    confirms: Confirms

    def lose(self) -> None:
        """Give up the connection; the broker delivers again what was not answered."""
        self.confirms.lost()
        if self.client.transport is not None:
            self.client.transport.loseConnection()


@attrs.define(eq=False)
class Consumer(Service):
    """Has messages handled, so many at a time, and acknowledges each when that has ended.

    :ivar handle: handles the body of a message; what it raises decides what becomes of the message: a
        :class:`InvalidMessage` makes it a dead letter, a :class:`Requeue` sends a copy to the end of a queue, anything else
        sends it back to its own queue.
    :ivar concurrency: messages in hand at the same time; the broker sends no more than that.
    :ivar grace: seconds for which a stopping service waits for what it has in hand; the rest goes back to the queue.
    :ivar refuse: as in :func:`client_service`.
    :ivar give_back: called when that time is over, to let go of what was in hand.
    :ivar serve: called when the last message in hand is done and the queue is empty; does something that no message
        came for, and says whether there was anything.
    :ivar abandoned: whether what was in hand was not finished in time.
    """

    reactor: Any
    brokers: Brokers
    source: Source
    handle: Callable[[bytes], Awaitable[None]]
    heartbeat: float
    concurrency: int
    grace: float
    refuse: Callable[[str], None] | None = None
    release_orders: Callable[[], Awaitable[None]] | None = None
    serve: Callable[[], Awaitable[bool]] | None = None
    abandoned: bool = attrs.field(default=False, init=False)
    _connection: ClientService | None = attrs.field(default=None, init=False)
    _session: _Session | None = attrs.field(default=None, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _in_hand: int = attrs.field(default=0, init=False)
    _serving: bool = attrs.field(default=False, init=False)
    _idle: Deferred[None] | None = attrs.field(default=None, init=False)

    def startService(self) -> None:
        super().startService()
        self._connection = client_service(
            self.reactor, self.brokers, f"barbtx {self.source.name}", self.heartbeat, self._prepare, self.refuse
        )
        self._connection.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {"connected": self._session is not None, "messages in hand": self._in_hand}

    async def _stop(self) -> None:
        self._stopping = True
        if self._session is not None:
            self._session.channel.basic_cancel(consumer_tag=_TAG, nowait=True)
        if self._in_hand or self._serving:
            self._idle = Deferred()
            self.abandoned = await self._idle.addTimeout(self.grace, self.reactor, lambda *_: True) or False
        if self.abandoned:
            log.warn("{count} messages were not finished in time and go back to the queue", count=self._in_hand)
            if self.release_orders is not None:
                await self.release_orders()
        await self._connection.stopService()

    async def _prepare(self, client: Client) -> None:
        channel = await client.new_channel()
        await self.source.declare(channel)
        await channel.basic_qos(prefetch_count=self.concurrency)
        session = _Session(client, channel, await Confirms.on(channel))
        channel.on_deliver = lambda message: self._take(session, message)
        # The broker ends a consumer when its queue goes; a new connection declares the queue again.
        channel.on_cancel = lambda message: session.lose()
        channel.on_closed = lambda reason: self._lost(session)
        await channel.basic_consume(queue=self.source.queue, consumer_tag=_TAG)
        self._session = session
        log.info("taking {name} from {queue}", name=self.source.name, queue=self.source.queue)

    def _lost(self, session: _Session) -> None:
        if self._session is session:
            self._session = None
        session.lose()

    def _take(self, session: _Session, message: Message) -> None:
        if self._stopping:
            session.channel.basic_nack(delivery_tag=message.delivery_tag, requeue=True)
            return
        self._in_hand += 1
        Deferred.fromCoroutine(self._run(session, message)).addBoth(self._ended, session)

    async def _run(self, session: _Session, message: Message) -> None:
        channel, tag, content = session.channel, message.delivery_tag, message.content
        try:
            try:
                if content.missing:
                    raise InvalidMessage(f"the body is longer than {MAX_BODY} bytes; what is beyond is not kept")
                await self.handle(content.body)
            except InvalidMessage as problem:
                log.error(
                    "{name}: a message goes to {queue}: {reason}",
                    name=self.source.name,
                    queue=self.source.dead_queue,
                    reason=str(problem),
                )
                await session.confirms.publish(
                    self.source.dead_queue, dead_letter(content, str(problem), self.source.queue)
                )
            except Requeue as wanted:
                log.info(
                    "{name}: a message goes to the end of {queue}: {reason}",
                    name=self.source.name,
                    queue=wanted.queue,
                    reason=str(wanted),
                )
                await session.confirms.publish(wanted.queue, copy_of(content))
            except Exception:
                log.failure("{name}: handling a message failed; it goes back to the queue", name=self.source.name)
                await channel.basic_reject(delivery_tag=tag, requeue=True)
                return
            await channel.basic_ack(delivery_tag=tag)
        except Closed:
            log.info("the connection was lost before a message was acknowledged; it will be delivered again")
        except PublishRefused as problem:
            log.warn("a message could not be sent on and goes back to the queue: {reason}", reason=str(problem))
            await deferLater(self.reactor, _BEFORE_ANOTHER_TRY, lambda: None)
            if not channel.closed:
                await channel.basic_nack(delivery_tag=tag, requeue=True)

    def _ended(self, outcome: object, session: _Session) -> None:
        if isinstance(outcome, Failure):
            log.failure(
                "{name}: a message was lost sight of; the broker has it still", failure=outcome, name=self.source.name
            )
            # Only a new connection gets it back.
            session.lose()
        self._in_hand -= 1
        if not self._in_hand and self.serve is not None and not self._serving and not self._stopping:
            self._serving = True
            Deferred.fromCoroutine(self._serve()).addBoth(self._served)
        self._tell_if_idle()

    async def _serve(self) -> None:
        while not self._stopping and not self._in_hand and await self.serve():
            pass

    def _served(self, outcome: object) -> None:
        if isinstance(outcome, Failure):
            log.failure("{name}: looking for what no message came for failed", failure=outcome, name=self.source.name)
        self._serving = False
        self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if self._idle is not None and not (self._in_hand or self._serving or self._idle.called):
            self._idle.callback(None)
