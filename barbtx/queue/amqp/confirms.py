"""Publishing so that the broker answers for each message."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from txamqp.client import Closed
from txamqp.content import Content
from txamqp.message import Message

from barbtx.queue.amqp.protocol import Channel
from barbtx.queue.transport import PublishRefused

log = Logger()


@attrs.define(eq=False)
class Confirms:
    """Publisher confirms on one channel, and what became of each message.

    :ivar on_unroutable: called when a message found no queue.
    """

    channel: Channel
    on_unroutable: Callable[[], None] = lambda: None
    _next_tag: int = attrs.field(default=1, init=False)
    _waiting: dict[int, Deferred[None]] = attrs.field(factory=dict, init=False)
    _lost: bool = attrs.field(default=False, init=False)

    @classmethod
    async def on(cls, channel: Channel, on_unroutable: Callable[[], None] = lambda: None) -> Confirms:
        """Ask for confirms on a channel.

        :raises Closed: it is closed.
        """
        await channel.confirm_select()
        confirms = cls(channel, on_unroutable)
        channel.on_confirm = confirms._confirm
        channel.on_return = confirms._returned
        return confirms

    def __len__(self) -> int:
        return len(self._waiting)

    def publish(self, queue: str, content: Content) -> Deferred[None]:
        """Send a message to a queue; fires when the broker has it safe.

        Its message-id is set here: by it a message that comes back is known.

        :raises Refused: (asynchronously) the broker did not take it, or there is no such queue.
        """
        if self._lost:
            return fail(PublishRefused("the connection is lost"))
        tag = self._next_tag
        content.properties["message-id"] = str(tag)
        self.channel.basic_publish(routing_key=queue, mandatory=True, content=content).addErrback(
            lambda failure: failure.trap(Closed)
        )
        # Only what was sent is counted by the broker.
        self._next_tag += 1
        confirmed: Deferred[None] = Deferred()
        self._waiting[tag] = confirmed
        return confirmed

    def lost(self) -> None:
        """The channel is gone, and with it the answers."""
        self._lost = True
        waiting, self._waiting = self._waiting, {}
        for confirmed in waiting.values():
            confirmed.errback(PublishRefused("the connection was lost before the broker answered"))

    def _confirm(self, tag: int, multiple: bool, taken: bool) -> None:
        for known in [known for known in self._waiting if known <= tag] if multiple else [tag]:
            confirmed = self._waiting.pop(known, None)
            if confirmed is None:
                continue
            if taken:
                confirmed.callback(None)
            else:
                confirmed.errback(PublishRefused("the broker did not take the message"))

    def _returned(self, message: Message) -> None:
        # The return precedes the confirm of the same message, which then says no more than that it was dealt with.
        log.error("no queue {queue} at the broker: {text}", queue=message.routing_key, text=message.reply_text)
        confirmed = self._waiting.pop(int(message.content["message-id"]), None)
        self.on_unroutable()
        if confirmed is not None:
            confirmed.errback(PublishRefused("the broker has no queue for the message"))
