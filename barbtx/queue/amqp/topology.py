"""The exchanges and queues that publishers and consumers declare at the broker, with the same arguments."""

from __future__ import annotations

import attrs
from oslo_config import cfg

from barbtx.model.records import ASYMMETRIC
from barbtx.queue.amqp.channel import Channel


def task_queue_arguments(
    delivery_limit: int, max_length: int, dead_exchange: str, dead_queue: str
) -> dict[str, object]:
    """Return the arguments of a quorum queue that never drops a message.

    :param delivery_limit: number of deliveries after which a message becomes a dead letter.
    :param max_length: maximum number of messages; further ones are rejected.
    :param dead_exchange: exchange for dead letters; empty for the broker's default exchange.
    :param dead_queue: routing key for dead letters.
    """
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": delivery_limit,
        "x-max-length": max_length,
        # A dead letter leaves this queue when the dead letter queue has confirmed it. RabbitMQ supports that only for
        # queues that reject messages when they are full.
        "x-overflow": "reject-publish",
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": dead_exchange,
        "x-dead-letter-routing-key": dead_queue,
    }


@attrs.frozen
class Topology:
    """Three durable quorum queues: for tasks, for tasks that generate key pairs, and for the dead letters of both.

    :ivar dead_exchange: exchange for dead letters; empty for the broker's default exchange.
    :ivar delivery_limit: number of deliveries after which a message becomes a dead letter.
    :ivar max_length: maximum number of messages in each queue.
    """

    queue: str
    dead_queue: str
    dead_exchange: str
    delivery_limit: int
    max_length: int

    name = "tasks"

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> Topology:
        """Read the options of ``[queue]``."""
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
        """Queue of the lane for key pairs."""
        return f"{self.queue}.asymmetric"

    @property
    def queues(self) -> tuple[str, ...]:
        """Names of all queues."""
        return self.queue, self.asymmetric_queue, self.dead_queue

    def queue_of(self, lane: str) -> str:
        """Return the queue of a lane."""
        return self.asymmetric_queue if lane == ASYMMETRIC else self.queue

    async def declare(self, channel: Channel) -> None:
        """Declare the exchange and the queues.

        :raises ChannelClosed: one of them exists with other arguments.
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
    """The queue of one lane, as a source of messages."""

    topology: Topology
    lane: str

    @property
    def name(self) -> str:
        """Name of the source, in logs and in the connection's name."""
        return f"{self.lane} tasks" if self.lane == ASYMMETRIC else self.topology.name

    @property
    def queue(self) -> str:
        """Queue to consume from."""
        return self.topology.queue_of(self.lane)

    @property
    def dead_queue(self) -> str:
        """Queue for dead letters."""
        return self.topology.dead_queue

    async def declare(self, channel: Channel) -> None:
        """Declare the queues of all lanes; see :meth:`Topology.declare`."""
        await self.topology.declare(channel)


@attrs.frozen
class DeadLetterQueue:
    """A dead letter queue.

    :ivar name: name of the queue.
    :ivar origins: queues from which its messages may have come. The first one is used for a message that names none.
    :ivar required: whether it is an error if the queue does not exist.
    """

    name: str
    origins: tuple[str, ...]
    required: bool


def notifications_dead_queue(pool: str | None) -> str:
    """Return the dead letter queue of Keystone's notifications.

    :param pool: the value of ``[keystone_notifications] pool_name``.
    """
    return f"{pool or 'barbtx.notifications'}.dead"


def dead_letter_queues(conf: cfg.ConfigOpts) -> tuple[DeadLetterQueue, ...]:
    """Return all dead letter queues of a configuration."""
    topology, notifications = Topology.from_config(conf), conf.keystone_notifications
    origin = notifications.pool_name or f"{notifications.topic}.info"
    return (
        DeadLetterQueue(topology.dead_queue, (topology.queue, topology.asymmetric_queue), True),
        DeadLetterQueue(notifications_dead_queue(notifications.pool_name), (origin,), notifications.enable),
    )
