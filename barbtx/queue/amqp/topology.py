"""What barbtx declares at the broker, always the same, by whichever side comes first."""

from __future__ import annotations

import attrs
from oslo_config import cfg

from barbtx.queue.amqp.protocol import Channel


@attrs.frozen
class Topology:
    """A durable quorum queue for tasks, and one for the messages that it could not get rid of."""

    queue: str
    delivery_limit: int
    max_length: int

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> Topology:
        return cls(conf.queue.topic, conf.queue.delivery_limit, conf.queue.max_length)

    @property
    def name(self) -> str:
        return "tasks"

    @property
    def dead_queue(self) -> str:
        return f"{self.queue}.dead"

    async def declare(self, channel: Channel) -> None:
        """Declare everything; what is there already stays as it is.

        :raises ChannelClosed: something is there, but with other arguments.
        """
        await channel.queue_declare(queue=self.dead_queue, durable=True, arguments={
            "x-queue-type": "quorum", "x-max-length": self.max_length,
        })
        await channel.queue_declare(queue=self.queue, durable=True, arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": self.delivery_limit,
            "x-max-length": self.max_length,
            # Dead letters are confirmed by their queue before they leave this one, which RabbitMQ grants only to
            # queues that refuse messages when they are full.
            "x-overflow": "reject-publish",
            "x-dead-letter-strategy": "at-least-once",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.dead_queue,
        })
