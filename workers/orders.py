"""The consumer of order tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oslo_config import cfg

from barbtx.queue.amqp.connection import Brokers
from barbtx.queue.amqp.consumer import Consumer
from barbtx.queue.amqp.topology import Topology
from barbtx.queue.server import Tasks
from barbtx.queue.transport import decode


def make_order_consumer(reactor: Any, conf: cfg.ConfigOpts, tasks: Tasks, refuse: Callable[[str], None]) -> Consumer:
    """A consumer that runs the task that each message names.

    :raises ConfigurationError: the brokers' addresses are none, or a file for TLS cannot be used.
    """
    queue = conf.queue

    async def handle(body: bytes) -> None:
        await tasks.dispatch(decode(body, queue.namespace, queue.version))

    return Consumer(reactor, Brokers.from_config(conf), Topology.from_config(conf), handle,
                    queue.heartbeat_seconds, queue.asynchronous_workers, queue.shutdown_seconds, refuse, tasks.give_back)
