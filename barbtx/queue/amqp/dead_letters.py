"""Looking at dead letters, and sending them on their way again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from txamqp.content import Content
from txamqp.message import Message

from barbtx.queue.amqp.confirms import Confirms
from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.amqp.consumer import ORIGIN, REASON
from barbtx.queue.amqp.protocol import Channel, Client
from barbtx.queue.amqp.topology import Topology
from barbtx.queue.transport import Refused


@attrs.frozen
class DeadLetter:
    """:ivar queue: where it came from.
    :ivar body: what it says, as far as it is text; it holds ids, never anything secret.
    """

    reason: str
    queue: str
    body: str


@attrs.frozen
class DeadLetters:
    """:ivar patience: seconds for which a broker may be silent."""

    reactor: Any
    brokers: Brokers
    topology: Topology
    patience: float

    async def list(self, limit: int) -> list[DeadLetter]:
        """The oldest dead letters, which stay where they are.

        :raises Refused, Closed: the broker cannot be asked.
        """
        return await self._each(limit, None)

    async def requeue(self, limit: int) -> list[DeadLetter]:
        """Send the oldest dead letters to the task queue again; those that were sent.

        Each leaves the dead letters only when the broker has it safe in the task queue.

        :raises Refused: the task queue did not take one; it stays, with those after it.
        """
        return await self._each(limit, self.topology.queue)

    async def _each(self, limit: int, target: str | None) -> list[DeadLetter]:
        opened: Deferred[Channel] = Deferred()

        async def prepare(client: Client) -> None:
            channel = await client.new_channel()
            await self.topology.declare(channel)
            if not opened.called:
                opened.callback(channel)

        service = client_service(self.reactor, self.brokers, "barbtx-manage", self.patience, prepare)
        service.startService()
        try:
            channel = await opened.addTimeout(self.patience, self.reactor, _no_broker)
            return await self._walk(channel, limit, target)
        finally:
            await service.stopService()

    async def _walk(self, channel: Channel, limit: int, target: str | None) -> list[DeadLetter]:
        confirms = await Confirms.on(channel)
        channel.on_closed = lambda reason: confirms.lost()
        queue = self.topology.dead_queue
        there = (await channel.queue_declare(queue=queue, passive=True)).message_count
        letters, held = [], []
        for _ in range(min(limit, there)):
            message = await channel.basic_get(queue=queue)
            if message.method.name != "get-ok":
                break
            letters.append(_read(message))
            if target is None:
                held.append(message.delivery_tag)
                continue
            content = message.content
            headers = {name: value for name, value in _headers(message).items()
                       if name not in (REASON, ORIGIN) and not name.startswith("x-death") and name != "x-delivery-count"}
            await confirms.publish(target, Content(content.body, properties={
                **content.properties, "delivery-mode": 2, "headers": headers}))
            await channel.basic_ack(delivery_tag=message.delivery_tag)
        for tag in held:
            await channel.basic_nack(delivery_tag=tag, requeue=True)
        # A round trip, so that nothing is still under way when the connection ends.
        await channel.queue_declare(queue=queue, passive=True)
        return letters


def _no_broker(*_: object) -> None:
    raise Refused("no broker answers, or its queues are not as configured")


def _headers(message: Message) -> Mapping[str, Any]:
    return message.content.properties.get("headers") or {}


def _read(message: Message) -> DeadLetter:
    headers = _headers(message)
    reason, queue = headers.get(REASON), headers.get(ORIGIN)
    if reason is None:
        # The broker's own: it gave up delivering the message.
        death = (headers.get("x-death") or [{}])[0]
        reason, queue = death.get("reason", "unknown"), death.get("queue", "unknown")
    return DeadLetter(str(reason), str(queue), message.content.body[:1000].decode("utf-8", "backslashreplace"))
