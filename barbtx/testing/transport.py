"""A transport that keeps messages in memory."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from barbtx.queue.transport import ITransport, PublishRefused, TaskMessage


@implementer(ITransport)
@attrs.define(eq=False)
class MemoryTransport:
    """Accepts messages and does nothing with them.

    :ivar ready: whether messages are accepted; a test may set it at any time.
    :ivar refusals: how many of the next messages are refused although the transport is ready, as a broker does whose
        queue is full.
    :ivar permits: see :class:`ITransport`.
    :ivar sent: the accepted messages, the oldest first.
    """

    ready: bool = True
    refusals: int = 0
    permits: bool = False
    sent: list[TaskMessage] = attrs.field(factory=list, init=False)

    def send(self, message: TaskMessage) -> Deferred[None]:
        """Accept a message.

        :raises PublishRefused: (asynchronously) the transport is not ready, or was told to refuse the message.
        """
        if not self.ready:
            return fail(PublishRefused("the transport is not ready"))
        if self.refusals:
            self.refusals -= 1
            return fail(PublishRefused("the message was refused"))
        self.sent.append(message)
        return succeed(None)

    def gauges(self) -> Mapping[str, object]:
        """Return the number of accepted messages."""
        return {"sent": len(self.sent)}
