"""The retry scheduler: it finds tasks that are due in the database and sends them through the task client.

Any number of schedulers may run, in API processes and workers. Each due task is taken by one of them. Tasks that are
merely queued are not sent again while workers make progress.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from oslo_config import cfg
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
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
    """Sends due tasks, in batches at a regular interval.

    :param jitter: returns a factor by which the next interval is multiplied.
    """

    def __init__(
        self,
        clock: IReactorTime,
        conf: cfg.ConfigOpts,
        orders: OrderRepo,
        client: TaskClient,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),
    ) -> None:
        self._clock = clock
        self._conf = conf.retry_scheduler
        self._orders = orders
        self._client = client
        self._jitter = jitter
        self._running: Deferred[None] | None = None
        self._unsent: set[str] = set()

    def startService(self) -> None:
        """Start the first round after ``[retry_scheduler] initial_delay_seconds``."""
        super().startService()
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda failure: failure.trap(CancelledError))

    def stopService(self) -> None:
        """Start no further round."""
        super().stopService()
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        wait = self._conf.initial_delay_seconds
        while True:
            await deferLater(self._clock, wait, lambda: None)
            more = await self._round()
            wait = 0 if more else self._conf.periodic_interval_max_seconds * self._jitter()

    async def _round(self) -> bool:
        """Send one batch of due tasks; return whether there may be more of them."""
        seen: set[str] = set()
        batch_size: int = self._conf.batch_size
        try:
            await self._reset_unsent()
            if not self._client.ready:
                return False
            tasks = await self._orders.take_due(
                batch_size, self._conf.republish_seconds, seen, permits=self._client.permits
            )
        except ServiceUnavailable as problem:
            if problem.outcome_unknown:
                # The transaction may have been committed, which postponed tasks that nobody sends.
                self._unsent |= seen
            return False
        except CancelledError:
            raise
        except Exception:
            log.failure("looking for due tasks failed")
            return False
        for task in tasks:
            about = Activity(task.kwargs.get("request_id"), task.order_id, task.kwargs.get("project_id"))
            activity.run(about, self._send, task)
        return len(tasks) == batch_size

    def _send(self, task: Task) -> None:
        log.info("order {order_id} is due", order_id=task.order_id)
        self._client.send(task).addErrback(activity.bind(self._refused), task.order_id)

    async def _reset_unsent(self) -> None:
        """Make the tasks that could not be sent due again, so that any process can send them."""
        unsent, self._unsent = self._unsent, set()
        if unsent:
            try:
                await self._orders.make_due(sorted(unsent), self._conf.republish_seconds)
            except ServiceUnavailable:
                self._unsent |= unsent
                raise

    def _refused(self, failure: Failure, order_id: str) -> None:
        failure.trap(PublishRefused)
        self._unsent.add(order_id)
        log.info("order {order_id} could not be sent: {reason}", order_id=order_id, reason=str(failure.value))
