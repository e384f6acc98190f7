"""Looking at dead letters, and sending them on their way again."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred
from txamqp.client import ChannelClosed, Closed
from txamqp.message import Message

from barbtx.queue.amqp.confirms import Confirms
from barbtx.queue.amqp.connection import Brokers
from barbtx.queue.amqp.one_shot import NoUsableBroker, connect_one_shot
from barbtx.queue.amqp.protocol import Channel, Client, one_line
from barbtx.queue.amqp.republishing import ORIGIN, REASON, copy_of, headers_of
from barbtx.queue.amqp.topology import DeadLetterQueue, Topology, dead_letter_queues

T = TypeVar("T")

_NOT_FOUND, _PRECONDITION_FAILED = "404", "406"
# Seconds in which it must be clear whether there is a broker to ask.
_PATIENCE = 2.0
_SHOWN = 1000


@attrs.frozen
class DeadLetter:
    """:ivar queue: where it came from.
    :ivar body: the beginning of what it says, in one line; it holds ids, never anything secret.
    """

    reason: str
    queue: str
    body: str


@attrs.frozen
class DeadLetters:
    """The dead letters of a deployment: of its tasks and of Keystone's notifications.

    :ivar patience: seconds for which a broker that has answered may be silent.
    """

    reactor: Any
    brokers: Brokers
    topology: Topology
    queues: tuple[DeadLetterQueue, ...]
    timeout: float

    @classmethod
    def from_config(cls, reactor: Any, conf: cfg.ConfigOpts) -> DeadLetters:
        """:raises ConfigurationError: the brokers' addresses are none, or a file for TLS cannot be used."""
        return cls(
            reactor,
            Brokers.from_config(conf),
            Topology.from_config(conf),
            dead_letter_queues(conf),
            conf.queue.heartbeat_seconds,
        )

    async def peek(self, limit: int) -> Sequence[DeadLetter]:
        """The oldest dead letters of each queue, so many in all at most, which stay where they are.

        :raises Unusable: the broker cannot be asked.
        """
        return await self._each(limit, False)

    async def requeue(self, limit: int) -> Sequence[DeadLetter]:
        """Send the oldest dead letters to the queues that they came from; those that were sent.

        Each leaves the dead letters only when the broker has it safe in its queue. One that is not whole stays.

        :raises Unusable: the broker cannot be asked.
        :raises Refused: a queue did not take one; it stays, with those after it.
        """
        return await self._each(limit, True)

    async def _each(self, limit: int, again: bool) -> Sequence[DeadLetter]:
        client = await connect_one_shot(self.reactor, self.brokers, "barbtx-manage", _PATIENCE)
        try:
            await self._ask(self._declare(client))
            letters: list[DeadLetter] = []
            for queue in self.queues:
                letters += await self._of(client, queue, limit - len(letters), again)
            return letters
        except ChannelClosed as problem:
            if str(problem).startswith(_PRECONDITION_FAILED):
                raise NoUsableBroker(
                    f"what is declared at the broker is not what the configuration says: {problem}"
                ) from None
            raise NoUsableBroker(f"the broker does not allow it: {problem}") from None
        except Closed as problem:
            raise NoUsableBroker(
                "the connection to the broker was lost before it had answered: "
                f"{one_line(problem.args[0] if problem.args else problem)}"
            ) from None
        finally:
            client.transport.loseConnection()
            # A silent broker does not end a connection with TLS.
            abort = self.reactor.callLater(_PATIENCE, client.transport.abortConnection)
            await client.disconnected.wait()
            if abort.active():
                abort.cancel()

    async def _declare(self, client: Client) -> None:
        await self.topology.declare(await client.new_channel())

    async def _ask(self, call: Awaitable[T]) -> T:
        """Wait for an answer, for so long that a slow broker can give it."""

        async def answer() -> T:
            return await call

        def too_late(*_: object) -> None:
            raise NoUsableBroker("the broker does not answer any more")

        return await Deferred.fromCoroutine(answer()).addTimeout(max(self.timeout, _PATIENCE), self.reactor, too_late)

    async def _of(self, client: Client, queue: DeadLetterQueue, limit: int, again: bool) -> Sequence[DeadLetter]:
        channel = await self._ask(client.new_channel())
        try:
            there = (await self._ask(channel.queue_declare(queue=queue.name, passive=True))).message_count
        except ChannelClosed as problem:
            if queue.required or not str(problem).startswith(_NOT_FOUND):
                raise
            return ()
        confirms = await self._ask(Confirms.on(channel))
        channel.on_closed = lambda reason: confirms.lost()
        letters, held = [], []
        for _ in range(min(limit, there)):
            message = await self._ask(channel.basic_get(queue=queue.name))
            if message.method.name != "get-ok":
                break
            letter = _read(message)
            if again and not message.content.missing:
                target = letter.queue if letter.queue in queue.origins else queue.origins[0]
                await self._ask(confirms.publish(target, copy_of(message.content)))
                await channel.basic_ack(delivery_tag=message.delivery_tag)
            else:
                held.append(message.delivery_tag)
            if not again or not message.content.missing:
                letters.append(letter)
        await self._ask(_put_back(channel, queue, held))
        return letters


async def _put_back(channel: Channel, queue: DeadLetterQueue, tags: Sequence[int]) -> None:
    for tag in tags:
        await channel.basic_nack(delivery_tag=tag, requeue=True)
    # A round trip, so that nothing is still under way when the connection ends.
    await channel.queue_declare(queue=queue.name, passive=True)


def _read(message: Message) -> DeadLetter:
    headers = headers_of(message.content)
    reason, queue = headers.get(REASON), headers.get(ORIGIN)
    if reason is None:
        # The broker's own: it gave up delivering the message.
        deaths = headers.get("x-death")
        death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
        reason, queue = death.get("reason", "unknown"), death.get("queue", "unknown")
    body = message.content.body[:_SHOWN].decode("utf-8", "backslashreplace")
    return DeadLetter(_in_one_line(str(reason)), _in_one_line(str(queue)), _in_one_line(body))


def _in_one_line(text: str) -> str:
    """A text from outside, with all that would break a line or a terminal written as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
