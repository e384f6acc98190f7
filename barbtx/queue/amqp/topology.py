"""What barbtx declares at the broker, always the same, by whichever side comes first."""

from __future__ import annotations

import attrs
from oslo_config import cfg

from barbtx.queue.amqp.protocol import Channel


def task_queue_arguments(delivery_limit: int, max_length: int, dead_exchange: str, dead_queue: str) -> dict[str, object]:
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
    """A durable quorum queue for tasks, and one for the messages that it could not get rid of.

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
        return cls(queue.topic, queue.dead_letter_queue or f"{queue.topic}.dead", queue.dead_letter_exchange,
                   queue.delivery_limit, queue.max_length)

    async def declare(self, channel: Channel) -> None:
        """Declare everything; what is there already stays as it is.

        :raises ChannelClosed: something is there, but with other arguments.
        """
        await channel.queue_declare(queue=self.dead_queue, durable=True, arguments={
            "x-queue-type": "quorum", "x-max-length": self.max_length,
        })
        if self.dead_exchange:
            await channel.exchange_declare(exchange=self.dead_exchange, type="direct", durable=True)
            await channel.queue_bind(queue=self.dead_queue, exchange=self.dead_exchange, routing_key=self.dead_queue)
        await channel.queue_declare(queue=self.queue, durable=True, arguments=task_queue_arguments(
            self.delivery_limit, self.max_length, self.dead_exchange, self.dead_queue))
