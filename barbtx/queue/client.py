"""The near end of the queue: what the API and the retry scheduler call."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from barbtx.model.records import SYMMETRIC, Task
from barbtx.queue.transport import ITransport, TaskMessage


def _is_transport(instance: object, attribute: object, value: object) -> None:
    verifyObject(ITransport, value)


@attrs.frozen
class TaskClient:
    """Has tasks run, wherever the transport takes them.

    :ivar patience: seconds for which it is worth waiting that a task just sent comes to its end; 0 if it runs
        elsewhere.
    """

    transport: Any = attrs.field(validator=_is_transport)
    timeout: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether a task would be taken now."""
        return self.transport.ready

    def process_type_order(
        self, order_id: str, project_id: str, request_id: str | None, lane: str = SYMMETRIC
    ) -> Deferred[None]:
        """Have an order processed.

        :param project_id: external id.
        :param request_id: of the API request, for the logs.
        :param lane: the one of the order's type; see :func:`barbtx.model.records.lane_of`.
        :raises Refused: (asynchronously) the message was not taken.
        """
        return self.send(
            Task(
                order_id,
                "process_type_order",
                {"order_id": order_id, "project_id": project_id, "request_id": request_id},
                lane,
            )
        )

    def send(self, task: Task) -> Deferred[None]:
        """Have a stored task run.

        :raises Refused: (asynchronously) the message was not taken.
        """
        return self.transport.send(TaskMessage(task.method, task.kwargs, task.lane))
