"""The task that processes an order, as messages and task rows refer to it."""

from __future__ import annotations

from barbtx.model.records import SYMMETRIC, Task

#: The task's name, in messages and in the column ``retry_task``.
PROCESS_TYPE_ORDER = "process_type_order"


def order_task(order_id: str, project_id: str, request_id: str | None, lane: str = SYMMETRIC) -> Task:
    """Make the task that processes an order.

    :param project_id: external ID.
    :param request_id: ID of the API request, for the logs.
    :param lane: lane of the order's type; see :func:`barbtx.model.records.lane_of`.
    """
    arguments = {"order_id": order_id, "project_id": project_id, "request_id": request_id}
    return Task(order_id, PROCESS_TYPE_ORDER, arguments, lane)
