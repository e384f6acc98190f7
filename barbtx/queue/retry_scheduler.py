"""Brings back what was promised and not done: it looks for due tasks and sends them through the task client.

Any number of them may run, in API processes and workers alike; each due task goes to one of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from oslo_config import cfg
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx import activity
from barbtx.activity import Activity
from barbtx.errors import ServiceUnavailable
from barbtx.model.records import Task
from barbtx.model.repositories.orders import OrderRepo
from barbtx.queue.client import TaskClient
from barbtx.queue.transport import PublishRefused

log = Logger()


class RetryScheduler(Service):
    """See the module's text.

    :param jitter: gives a factor for each interval.
    """

    def __init__(
        self,
        reactor: Any,
        conf: cfg.ConfigOpts,
        orders: OrderRepo,
        client: TaskClient,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),
    ) -> None:
        self._reactor = reactor
        self._conf = conf.retry_scheduler
        self._orders = orders
        self._client = client
        self._jitter = jitter
        self._running: Deferred[None] | None = None
        self._unsent: set[str] = set()

    def startService(self) -> None:
        super().startService()
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda failure: failure.trap(CancelledError))

    def stopService(self) -> None:
        super().stopService()
        self._running.cancel()

    async def _run(self) -> None:
        wait = self._conf.initial_delay_seconds
        while True:
            await deferLater(self._reactor, wait, lambda: None)
            more = await self._round()
            wait = 0 if more else self._conf.periodic_interval_max_seconds * self._jitter()

    async def _round(self) -> bool:
        """Send what is due; whether there may be more."""
        seen: set[str] = set()
        try:
            await self._put_back()
            if not self._client.ready:
                return False
            tasks = await self._orders.take_due(self._conf.batch_size, self._conf.republish_seconds, seen)
        except ServiceUnavailable as problem:
            if problem.outcome_unknown:
                # They may have been put off although nobody sends them.
                self._unsent |= seen
            return False
        except CancelledError:
            raise
        except Exception:
            log.failure("looking for due tasks failed")
            return False
        for task in tasks:
            hand = Activity(task.kwargs.get("request_id"), task.order_id, task.kwargs.get("project_id"))
            activity.run(hand, self._send, task)
        return len(tasks) == self._conf.batch_size

    def _send(self, task: Task) -> None:
        log.info("order {order_id} is due", order_id=task.order_id)
        self._client.send(task).addErrback(activity.bind(self._refused), task.order_id)

    async def _put_back(self) -> None:
        """Have what could not be sent become due again, for whichever process can send it."""
        unsent, self._unsent = self._unsent, set()
        if unsent:
            try:
                await self._orders.make_due(sorted(unsent), 0)
            except ServiceUnavailable:
                self._unsent |= unsent
                raise

    def _refused(self, failure: Failure, order_id: str) -> None:
        failure.trap(PublishRefused)
        self._unsent.add(order_id)
        log.info("order {order_id} could not be sent: {reason}", order_id=order_id, reason=str(failure.value))
