"""The consumers of order tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from oslo_config import cfg
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred

from barbtx.model.records import ASYMMETRIC, SYMMETRIC
from barbtx.queue.amqp.connection import Brokers
from barbtx.queue.amqp.consumer import Consumer, Requeue
from barbtx.queue.amqp.topology import LaneSource, Topology
from barbtx.queue.server import Tasks
from barbtx.queue.transport import RetryLater, WrongLane, decode
from barbtx.reactor import IReactor
from barbtx.tasks.lanes import Lane


class OrderConsumers(MultiService):
    """One consumer for each lane, which start and stop together.

    :param tasks: processes the messages.
    :param refuse: see :func:`barbtx.queue.amqp.connection.client_service`.
    :raises ConfigurationError: a transport URL is invalid, or a file for TLS cannot be used.
    """

    def __init__(self, reactor: IReactor, conf: cfg.ConfigOpts, tasks: Tasks, refuse: Callable[[str], None]) -> None:
        super().__init__()
        self._tasks = tasks
        queue, topology = conf.queue, Topology.from_config(conf)
        self._consumers: list[Consumer] = []
        for name, concurrency in ((SYMMETRIC, queue.asynchronous_workers), (ASYMMETRIC, queue.asymmetric_workers)):
            lane = Lane(name)
            consumer = Consumer(
                reactor=reactor,
                brokers=Brokers.from_config(conf),
                source=LaneSource(topology, name),
                handle=partial(self._handle, conf, topology, lane),
                heartbeat=queue.heartbeat_seconds,
                concurrency=concurrency,
                grace=queue.shutdown_seconds,
                refuse=refuse,
                release=tasks.release_orders,
                process_next=partial(tasks.process_next, lane),
            )
            self._consumers.append(consumer)
            Service.setServiceParent(consumer, self)

    def gauges(self) -> dict[str, object]:
        """Return the state of all consumers, for the status report."""
        return {
            f"{consumer.source.name} {name}": value
            for consumer in self._consumers
            for name, value in consumer.gauges().items()
        }

    @property
    def unfinished(self) -> bool:
        """Whether a consumer stopped before its messages in flight were finished."""
        return any(consumer.unfinished for consumer in self._consumers)

    def stopService(self) -> Deferred[list[object]]:
        """Stop the consumers, and the retries of tasks in flight."""
        self._tasks.stop_waiting()
        stopped: Deferred[list[object]] = super().stopService()
        return stopped

    async def _handle(self, conf: cfg.ConfigOpts, topology: Topology, lane: Lane, body: bytes) -> None:
        """Run the task that a message names, or process another order of the lane whose turn it is.

        :raises InvalidMessage: the message does not name a task.
        :raises Requeue: the message belongs in another queue, or is to be delivered again later.
        """
        message = decode(body, conf.queue.namespace, conf.queue.version)
        try:
            await self._tasks.dispatch(message, lane)
        except WrongLane as other:
            raise Requeue(topology.queue_of(other.lane), "it belongs to another lane") from None
        except RetryLater as problem:
            raise Requeue(topology.queue_of(lane.name), str(problem)) from None
