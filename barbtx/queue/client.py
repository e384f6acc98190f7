"""The sending side of the queue, which the API and the retry scheduler use."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred

from barbtx.model.records import Task
from barbtx.queue.transport import ITransport, TaskMessage
from barbtx.validators import provides


@attrs.frozen
class TaskClient:
    """Sends stored tasks over a transport.

    :ivar timeout: seconds to wait for the outcome of a task that was just sent; 0 if tasks run in other processes.
    """

    transport: ITransport = attrs.field(validator=provides(ITransport))
    timeout: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether the transport accepts messages now."""
        return self.transport.ready

    @property
    def permits(self) -> bool:
        """Whether messages are permits; see :class:`~barbtx.queue.transport.ITransport`."""
        return self.transport.permits

    def send(self, task: Task) -> Deferred[None]:
        """Send a task.

        :return: fires as :meth:`ITransport.send` does. Cancelling it ends the wait, not the task.
        :raises PublishRefused: (asynchronously) the transport did not accept the message.
        """
        return Deferred.fromCoroutine(self._send(task))

    async def _send(self, task: Task) -> None:
        await self.transport.send(TaskMessage(task.method, task.kwargs, task.lane))
