"""What barbtx declares at the broker, always the same, by whichever side comes first."""

from __future__ import annotations

import attrs
from oslo_config import cfg

from barbtx.model.records import ASYMMETRIC
from barbtx.queue.amqp.protocol import Channel


def task_queue_arguments(
    delivery_limit: int, max_length: int, dead_exchange: str, dead_queue: str
) -> dict[str, object]:
    """Arguments of a queue whose messages are not lost, not even those that cannot be got rid of."""
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": delivery_limit,
        "x-max-length": max_length,
        # Dead letters are confirmed by their queue before they leave this one, which RabbitMQ grants only to queues
        # that refuse messages when they are full.
        "x-overflow": "reject-publish",
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": dead_exchange,
        "x-dead-letter-routing-key": dead_queue,
    }


@attrs.frozen
class Topology:
    """A durable quorum queue for tasks, one for those of the lane of key pairs, and one for the messages that they
    could not get rid of.

    :ivar dead_exchange: through which those go; empty for the broker's default exchange.
    """

    queue: str
    dead_queue: str
    dead_exchange: str
    delivery_limit: int
    max_length: int

    name = "tasks"

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> Topology:
        queue = conf.queue
        return cls(
            queue.topic,
            queue.dead_letter_queue or f"{queue.topic}.dead",
            queue.dead_letter_exchange,
            queue.delivery_limit,
            queue.max_length,
        )

    @property
    def asymmetric_queue(self) -> str:
        return f"{self.queue}.asymmetric"

    def queue_of(self, lane: str) -> str:
        """The queue of a lane."""
        return self.asymmetric_queue if lane == ASYMMETRIC else self.queue

    async def declare(self, channel: Channel) -> None:
        """Declare everything; what is there already stays as it is.

        :raises ChannelClosed: something is there, but with other arguments.
        """
        await channel.queue_declare(
            queue=self.dead_queue,
            durable=True,
            arguments={
                "x-queue-type": "quorum",
                "x-max-length": self.max_length,
            },
        )
        if self.dead_exchange:
            await channel.exchange_declare(exchange=self.dead_exchange, type="direct", durable=True)
            await channel.queue_bind(queue=self.dead_queue, exchange=self.dead_exchange, routing_key=self.dead_queue)
        for queue in (self.queue, self.asymmetric_queue):
            await channel.queue_declare(
                queue=queue,
                durable=True,
                arguments=task_queue_arguments(
                    self.delivery_limit, self.max_length, self.dead_exchange, self.dead_queue
                ),
            )


@attrs.frozen
class LaneSource:
    """The queue of one lane, to take messages from."""

    topology: Topology
    lane: str

    @property
    def name(self) -> str:
        return f"{self.lane} tasks" if self.lane == ASYMMETRIC else self.topology.name

    @property
    def queue(self) -> str:
        return self.topology.queue_of(self.lane)

    @property
    def dead_queue(self) -> str:
        return self.topology.dead_queue

    async def declare(self, channel: Channel) -> None:
        """As :meth:`Topology.declare` does."""
        await self.topology.declare(channel)


@attrs.frozen
class DeadLetterQueue:
    """A queue of dead letters.

    :ivar name: the queue.
    :ivar origins: the queues that its messages may have come from, the one of those that name none first.
    :ivar required: whether it must be there.
    """

    name: str
    origins: tuple[str, ...]
    required: bool


def notifications_dead_queue(pool: str | None) -> str:
    """The queue of the notifications that could not be processed.

    :param pool: as ``[keystone_notifications] pool_name``.
    """
    return f"{pool or 'barbtx.notifications'}.dead"


def dead_letter_queues(conf: cfg.ConfigOpts) -> tuple[DeadLetterQueue, ...]:
    """Every queue of dead letters that a configuration has."""
    topology, notifications = Topology.from_config(conf), conf.keystone_notifications
    origin = notifications.pool_name or f"{notifications.topic}.info"
    return (
        DeadLetterQueue(topology.dead_queue, (topology.queue, topology.asymmetric_queue), True),
        DeadLetterQueue(notifications_dead_queue(notifications.pool_name), (origin,), notifications.enable),
    )
