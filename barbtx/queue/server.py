"""The far end of the queue: the methods that messages name."""

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
from barbtx.tasks.outage_retry import OutageRetry
from barbtx.tasks.type_order import BeginTypeOrder, OrderInWrongLane

log = Logger()


@attrs.frozen
class Tasks:
    """The task methods, under the names that messages use.

    :ivar begin_type_order: makes the task that works on one order.
    :ivar leases: the orders in hand.
    :ivar patience: with which the tasks wait for the database.
    """

    begin_type_order: Callable[[], BeginTypeOrder]
    leases: Leases
    outage_retry: OutageRetry

    async def process_type_order(
        self, order_id: str, project_id: str, request_id: str | None = None, lane: Lane | None = None
    ) -> None:
        """Make what an order asks for. Never raises for what goes wrong with the order: that is the order's outcome.

        An order that is not there is left alone: it was deleted after the message was sent.

        :param lane: where projects take turns, so that it may be the turn of another order.
        :raises NotNow: the order could not be taken in hand.
        :raises OtherLane: it is to be processed in another lane.
        """
        try:
            await self.begin_type_order().process_and_suppress_exceptions(order_id, project_id, lane)
        except NoSuchEntity:
            log.info("order {order_id} is not there any more", order_id=order_id, request_id=request_id)
        except OrderInWrongLane as problem:
            raise WrongLane(problem.lane) from None
        except DependencyUnavailable as problem:
            raise RetryLater(str(problem)) from None

    async def serve(self, lane: Lane) -> bool:
        """Process the order whose turn it is in a lane, without having been sent for it; whether there was one."""
        served = lane.served
        activity.begin(Activity())
        try:
            await self.begin_type_order().process_and_suppress_exceptions(None, None, lane)
        except DependencyUnavailable:
            return False
        return lane.served > served

    def stop_waiting(self) -> None:
        """Wait no longer for what is out of reach: this process is about to stop."""
        self.outage_retry.stop()

    async def release_orders(self) -> None:
        """Let go of the orders in hand: this process will not finish them."""
        await self.leases.release_all()

    async def dispatch(self, message: TaskMessage, lane: Lane | None = None) -> None:
        """Run the method that a message names. Arguments that a later release adds are left alone.

        :raises BadMessage: there is none, or its arguments do not fit.
        :raises NotNow, OtherLane: as :meth:`process_type_order` does.
        """
        if message.method != "process_type_order":
            raise InvalidMessage("unknown method")
        order_id, project_id, request_id = (message.args.get(name) for name in ("order_id", "project_id", "request_id"))
        if not order_id or not project_id:
            raise InvalidMessage("an argument is missing")
        if not is_id(order_id):
            raise InvalidMessage("the order's id is no id")
        if not is_text(project_id):
            raise InvalidMessage("the project's id cannot be one")
        if request_id is not None and not is_text(request_id):
            raise InvalidMessage("the request's id cannot be one")
        activity.begin(Activity(request_id, order_id, project_id))
        await self.process_type_order(order_id, project_id, request_id, lane)
