"""Acknowledging messages: those that end in one turn of the reactor are acknowledged together."""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from barbtx.queue.amqp.channel import Channel

log = Logger()


@attrs.define(eq=False)
class Acknowledgements:
    """Acknowledges the messages that one channel has delivered, whose delivery tags count from 1.

    :ivar channel: the channel; it must have one consumer, and each message must be settled through this object.
    """

    clock: IReactorTime
    channel: Channel
    _settled_up_to: int = attrs.field(default=0, init=False)
    _settled: set[int] = attrs.field(factory=set, init=False)
    _waiting: list[int] = attrs.field(factory=list, init=False)
    _flush: IDelayedCall | None = attrs.field(default=None, init=False)

    def acknowledge(self, tag: int) -> None:
        """Acknowledge a message at the end of this turn of the reactor."""
        self._waiting.append(tag)
        if self._flush is None:
            self._flush = self.clock.callLater(0, self.flush)

    def reject(self, tag: int) -> None:
        """Return a message to its queue now. The broker counts the delivery towards the message's limit."""
        self._settle([tag])
        if not self.channel.closed:
            self.channel.basic_reject(delivery_tag=tag, requeue=True)

    def requeue(self, tag: int) -> None:
        """Return a message to its queue now, because it was not processed."""
        self._settle([tag])
        if not self.channel.closed:
            self.channel.basic_nack(delivery_tag=tag, requeue=True)

    def flush(self) -> None:
        """Send the acknowledgements that wait."""
        if self._flush is not None and self._flush.active():
            self._flush.cancel()
        self._flush = None
        waiting, self._waiting = sorted(self._waiting), []
        if not waiting:
            return
        if self.channel.closed:
            log.info("the connection was lost before a message was acknowledged; it will be delivered again")
            return
        self._settle(waiting)
        together = [tag for tag in waiting if tag <= self._settled_up_to]
        if together:
            # Everything up to this one is settled, and it is not, as far as the broker knows.
            self.channel.basic_ack(delivery_tag=together[-1], multiple=True)
        for tag in waiting[len(together) :]:
            self.channel.basic_ack(delivery_tag=tag)

    def _settle(self, tags: list[int]) -> None:
        self._settled.update(tags)
        while self._settled_up_to + 1 in self._settled:
            self._settled_up_to += 1
            self._settled.remove(self._settled_up_to)
