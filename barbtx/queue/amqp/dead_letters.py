"""Showing dead letters, and sending them back to the queues from which they came."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import NoReturn, TypeVar

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred
from txamqp.client import ChannelClosed, Closed
from txamqp.message import Message

from barbtx.queue.amqp.channel import Channel, close_reason
from barbtx.queue.amqp.confirms import Confirms
from barbtx.queue.amqp.connection import Brokers
from barbtx.queue.amqp.one_shot import NoUsableBroker, connect_one_shot
from barbtx.queue.amqp.protocol import Client
from barbtx.queue.amqp.republishing import ORIGIN, REASON, copy_of, headers_of
from barbtx.queue.amqp.topology import DeadLetterQueue, Topology, dead_letter_queues
from barbtx.reactor import IReactor

T = TypeVar("T")

_NOT_FOUND, _PRECONDITION_FAILED = "404", "406"
# Seconds to wait for a connection, and again for the end of the connection.
_CONNECT_SECONDS = 2.0
# Bytes of a body that are shown.
_MAX_SHOWN = 1000


@attrs.frozen
class DeadLetter:
    """A dead letter, as it is shown to the operator.

    :ivar reason: why it could not be processed.
    :ivar queue: the queue from which it came.
    :ivar body: the beginning of the body in one line, which contains IDs and nothing secret.
    """

    reason: str
    queue: str
    body: str


@attrs.frozen
class DeadLetters:
    """The dead letters of a deployment: tasks and notifications of Keystone that could not be processed.

    :ivar queues: the dead letter queues.
    :ivar timeout: seconds to wait for each reply of the broker, 2 at least.
    """

    reactor: IReactor
    brokers: Brokers
    topology: Topology
    queues: tuple[DeadLetterQueue, ...]
    timeout: float

    @classmethod
    def from_config(cls, reactor: IReactor, conf: cfg.ConfigOpts) -> DeadLetters:
        """Read the configuration.

        :raises ConfigurationError: the transport URL is invalid, or a file for TLS cannot be used.
        """
        return cls(
            reactor,
            Brokers.from_config(conf),
            Topology.from_config(conf),
            dead_letter_queues(conf),
            conf.queue.heartbeat_seconds,
        )

    async def peek(self, limit: int) -> Sequence[DeadLetter]:
        """Return the oldest dead letters of each queue and leave them there.

        :param limit: maximum number of dead letters, of all queues together.
        :raises NoUsableBroker: no broker can be used, or the connection fails.
        """
        return await self._read_all(limit, requeue=False)

    async def requeue(self, limit: int) -> Sequence[DeadLetter]:
        """Send the oldest dead letters back to the queues from which they came.

        A dead letter is removed when the broker has confirmed its copy. One whose body was truncated is not sent.

        :param limit: maximum number of dead letters, of all queues together.
        :return: the dead letters that were sent.
        :raises NoUsableBroker: no broker can be used, or the connection fails.
        :raises PublishRefused: a queue did not accept a message. This dead letter and the following ones stay.
        """
        return await self._read_all(limit, requeue=True)

    async def _read_all(self, limit: int, *, requeue: bool) -> Sequence[DeadLetter]:
        client = await connect_one_shot(self.reactor, self.brokers, "barbtx-manage", _CONNECT_SECONDS)
        try:
            await self._reply(self._check(client))
            letters: list[DeadLetter] = []
            for queue in self.queues:
                letters += await self._read_queue(client, queue, limit - len(letters), requeue=requeue)
            return letters
        except ChannelClosed as problem:
            if str(problem).startswith(_PRECONDITION_FAILED):
                raise NoUsableBroker(
                    f"the exchanges or queues at the broker differ from the configuration: {problem}"
                ) from None
            raise NoUsableBroker(f"the broker denied access: {problem}") from None
        except Closed as problem:
            raise NoUsableBroker(
                "the connection to the broker was lost before the broker replied: "
                f"{close_reason(problem.args[0] if problem.args else problem)}"
            ) from None
        finally:
            client.transport.loseConnection()
            # With TLS, a connection to a silent broker is closed only when it is aborted.
            abort = self.reactor.callLater(_CONNECT_SECONDS, client.transport.abortConnection)
            await client.disconnected.wait()
            if abort.active():
                abort.cancel()

    async def _check(self, client: Client) -> None:
        """Check that the queues exist and have the configured arguments.

        :raises NoUsableBroker: a queue does not exist.
        :raises ChannelClosed: a queue has other arguments.
        """
        channel = await client.new_channel()
        for queue in self.topology.queues:
            try:
                await channel.queue_declare(queue=queue, passive=True)
            except ChannelClosed as problem:
                if not str(problem).startswith(_NOT_FOUND):
                    raise
                raise NoUsableBroker(
                    f"the broker has no queue {queue}: check [queue] topic and dead_letter_queue; API processes and "
                    "workers create the queues when they start"
                ) from None
        # All of them exist, so that this creates none; the broker compares the arguments.
        await self.topology.declare(channel)

    async def _reply(self, request: Awaitable[T]) -> T:
        """Wait for the reply to a request.

        :raises NoUsableBroker: the broker does not reply in time.
        """

        async def reply() -> T:
            return await request

        def timed_out(*_: object) -> NoReturn:
            raise NoUsableBroker("the broker no longer responds")

        return await Deferred.fromCoroutine(reply()).addTimeout(
            max(self.timeout, _CONNECT_SECONDS), self.reactor, timed_out
        )

    async def _read_queue(
        self, client: Client, queue: DeadLetterQueue, limit: int, *, requeue: bool
    ) -> Sequence[DeadLetter]:
        channel = await self._reply(client.new_channel())
        try:
            count = (await self._reply(channel.queue_declare(queue=queue.name, passive=True))).message_count
        except ChannelClosed as problem:
            if queue.required or not str(problem).startswith(_NOT_FOUND):
                raise
            return ()
        confirms = await self._reply(Confirms.enable(channel))
        channel.on_closed = lambda reason: confirms.lose()
        letters, kept = [], []
        for _ in range(min(limit, count)):
            message = await self._reply(channel.basic_get(queue=queue.name))
            if message.method.name != "get-ok":
                break
            letter, truncated = _read(message), message.content.missing
            if requeue and not truncated:
                target = letter.queue if letter.queue in queue.origins else queue.origins[0]
                await self._reply(confirms.publish(target, copy_of(message.content)))
                await channel.basic_ack(delivery_tag=message.delivery_tag)
            else:
                kept.append(message.delivery_tag)
            if not requeue or not truncated:
                letters.append(letter)
        await self._reply(_return_messages(channel, queue, kept))
        return letters


async def _return_messages(channel: Channel, queue: DeadLetterQueue, tags: Sequence[int]) -> None:
    """Return messages to their queue, and wait until the broker has processed that."""
    for tag in tags:
        await channel.basic_nack(delivery_tag=tag, requeue=True)
    # The reply to this request confirms that the broker has processed the preceding ones.
    await channel.queue_declare(queue=queue.name, passive=True)


def _read(message: Message) -> DeadLetter:
    headers = headers_of(message.content)
    reason, queue = headers.get(REASON), headers.get(ORIGIN)
    if reason is None:
        # The broker itself made it a dead letter, and describes that in another header.
        deaths = headers.get("x-death")
        death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
        reason, queue = death.get("reason", "unknown"), death.get("queue", "unknown")
    body = message.content.body[:_MAX_SHOWN].decode("utf-8", "backslashreplace")
    return DeadLetter(_in_one_line(str(reason)), _in_one_line(str(queue)), _in_one_line(body))


def _in_one_line(text: str) -> str:
    """Escape line breaks and control characters in a text from outside."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
