"""The consumer of order tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from oslo_config import cfg
from twisted.application.service import MultiService

from barbtx.model.records import ASYMMETRIC, SYMMETRIC
from barbtx.queue.amqp.connection import Brokers
from barbtx.queue.amqp.consumer import Consumer, Requeue
from barbtx.queue.amqp.topology import LaneSource, Topology
from barbtx.queue.server import Tasks
from barbtx.queue.transport import RetryLater, WrongLane, decode
from barbtx.tasks.lanes import Lane


class OrderConsumers(MultiService):
    """A consumer for each lane; they stop at the same time.

    :param tasks: what messages are for.
    :raises ConfigurationError: the brokers' addresses are none, or a file for TLS cannot be used.
    """

    def __init__(self, reactor: Any, conf: cfg.ConfigOpts, tasks: Tasks, refuse: Callable[[str], None]) -> None:
        super().__init__()
        self._tasks = tasks
        queue, topology = conf.queue, Topology.from_config(conf)
        for name, concurrency in ((SYMMETRIC, queue.asynchronous_workers), (ASYMMETRIC, queue.asymmetric_workers)):
            lane = Lane(name)
            handle = partial(self._handle, conf, topology, lane)
            Consumer(
                reactor,
                Brokers.from_config(conf),
                LaneSource(topology, name),
                handle,
                queue.heartbeat_seconds,
                concurrency,
                queue.shutdown_seconds,
                refuse,
                tasks.release_orders,
                partial(tasks.serve, lane),
            ).setServiceParent(self)

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {
            f"{consumer.source.name} {name}": value for consumer in self for name, value in consumer.gauges().items()
        }

    @property
    def abandoned(self) -> bool:
        """Whether one of them stopped before everything in hand was finished."""
        return any(consumer.abandoned for consumer in self)

    def stopService(self) -> Any:
        self._tasks.stop_waiting()
        return super().stopService()

    async def _handle(self, conf: cfg.ConfigOpts, topology: Topology, lane: Lane, body: bytes) -> None:
        """Have the task run that a message names, or another one whose turn it is.

        :raises BadMessage: it names none.
        :raises SendOn: it belongs into another queue, or is to come again later.
        """
        message = decode(body, conf.queue.namespace, conf.queue.version)
        try:
            await self._tasks.dispatch(message, lane)
        except WrongLane as other:
            raise Requeue(topology.queue_of(other.lane), "it is of another lane") from None
        except RetryLater as problem:
            raise Requeue(topology.queue_of(lane.name), str(problem)) from None
