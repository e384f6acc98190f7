"""The receiving side of the queue: the task methods that messages name."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.logger import Logger

from barbtx import activity
from barbtx.activity import Activity
from barbtx.queue.transport import InvalidMessage, RetryLater, TaskMessage, WrongLane, is_id, is_text
from barbtx.tasks.base import DependencyUnavailable, NoSuchEntity
from barbtx.tasks.lanes import Lane
from barbtx.tasks.leases import Leases
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER
from barbtx.tasks.outage_retry import OutageRetry
from barbtx.tasks.type_order import BeginTypeOrder, OrderInWrongLane

log = Logger()


@attrs.frozen
class Tasks:
    """The task methods, under the names that messages use.

    :ivar begin_type_order: returns a new task that processes one order.
    :ivar leases: the leases of the orders that this process is processing.
    :ivar outage_retry: retries the tasks' database work during an outage.
    """

    begin_type_order: Callable[[], BeginTypeOrder]
    leases: Leases
    outage_retry: OutageRetry

    async def process_type_order(
        self, order_id: str, project_id: str, request_id: str | None = None, lane: Lane | None = None
    ) -> None:
        """Process an order. A failure is stored as the outcome of the order and not raised.

        An order that does not exist is ignored: it was deleted after the message was sent.

        :param project_id: external ID.
        :param lane: if given, the projects in it take turns, so that another order may be processed instead.
        :raises RetryLater: the order could not be claimed because the database is unavailable.
        :raises WrongLane: the order must be processed in another lane.
        """
        try:
            await self.begin_type_order().process_and_suppress_exceptions(order_id, project_id, lane)
        except NoSuchEntity:
            log.info("order {order_id} no longer exists", order_id=order_id, request_id=request_id)
        except OrderInWrongLane as problem:
            raise WrongLane(problem.lane) from None
        except DependencyUnavailable as problem:
            raise RetryLater(str(problem)) from None

    async def process_next(self, lane: Lane) -> bool:
        """Process the next waiting order of a lane, for which no message was received; return whether there was one."""
        claimed = lane.claimed
        activity.begin(Activity())
        try:
            await self.begin_type_order().process_and_suppress_exceptions(None, None, lane)
        except DependencyUnavailable:
            return False
        return lane.claimed > claimed

    def stop_waiting(self) -> None:
        """Stop retrying during an outage, because this process is shutting down."""
        self.outage_retry.stop()

    async def release_orders(self) -> None:
        """Release the orders that this process will not finish, so that others can process them at once."""
        await self.leases.release_all()

    async def dispatch(self, message: TaskMessage, lane: Lane | None = None) -> None:
        """Run the method that a message names. Unknown arguments are ignored, because a later release may add some.

        :raises InvalidMessage: the method is unknown, or its arguments are missing or malformed.
        :raises RetryLater, WrongLane: see :meth:`process_type_order`.
        """
        if message.method != PROCESS_TYPE_ORDER:
            raise InvalidMessage("unknown method")
        order_id, project_id, request_id = (message.args.get(name) for name in ("order_id", "project_id", "request_id"))
        if not order_id or not project_id:
            raise InvalidMessage("an argument is missing")
        if not is_id(order_id):
            raise InvalidMessage("order_id is not a UUID")
        if not is_text(project_id):
            raise InvalidMessage("project_id is not a valid ID")
        if request_id is not None and not is_text(request_id):
            raise InvalidMessage("request_id is not a valid ID")
        activity.begin(Activity(request_id, order_id, project_id))
        await self.process_type_order(order_id, project_id, request_id, lane)
