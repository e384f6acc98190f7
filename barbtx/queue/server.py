"""The far end of the queue: the methods that messages name."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.logger import Logger

from barbtx import activity
from barbtx.activity import Activity
from barbtx.queue.transport import BadMessage, TaskMessage
from barbtx.tasks.base import NoSuchEntity
from barbtx.tasks.type_order import BeginTypeOrder, Leases

log = Logger()


@attrs.frozen
class Tasks:
    """The task methods, under the names that messages use.

    :ivar begin_type_order: makes the task that works on one order.
    :ivar leases: the orders in hand.
    """

    begin_type_order: Callable[[], BeginTypeOrder]
    leases: Leases

    async def process_type_order(self, order_id: str, project_id: str, request_id: str | None = None,
                                 **_later: object) -> None:
        """Make what an order asks for. Never raises for what goes wrong with the order: that is the order's outcome.

        Arguments that a later release adds are left alone.

        :raises BadMessage: there is no such order.
        """
        log.info("processing order {order_id}", order_id=order_id, request_id=request_id)
        try:
            await self.begin_type_order().process_and_suppress_exceptions(order_id, project_id)
        except NoSuchEntity as problem:
            raise BadMessage(str(problem)) from None
        log.info("processed order {order_id}", order_id=order_id, request_id=request_id)

    async def give_back(self) -> None:
        """Let go of the orders in hand: this process will not finish them."""
        await self.leases.release_all()

    async def dispatch(self, message: TaskMessage) -> None:
        """Run the method that a message names.

        :raises BadMessage: there is none, or its arguments do not fit.
        """
        methods = {"process_type_order": (self.process_type_order, ("order_id", "project_id"))}
        method, required = methods.get(message.method, (None, ()))
        if method is None:
            raise BadMessage("unknown method")
        if not all(message.args.get(name) for name in required):
            raise BadMessage("an argument is missing")
        activity.begin(Activity(*(message.args.get(name) for name in ("request_id", "order_id", "project_id"))))
        await method(**message.args)
