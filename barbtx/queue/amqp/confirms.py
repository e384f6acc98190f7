"""Publisher confirms: the broker acknowledges each published message."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from txamqp.client import Closed
from txamqp.content import Content
from txamqp.message import Message

from barbtx.queue.amqp.channel import Channel
from barbtx.queue.transport import PublishRefused

log = Logger()


@attrs.define(eq=False)
class Confirms:
    """Publishes on one channel and matches the broker's confirms to the messages. ``len()`` counts unconfirmed ones.

    :ivar on_unroutable: called when the broker returns a message because its queue does not exist.
    """

    channel: Channel
    on_unroutable: Callable[[], None] = lambda: None
    _next_tag: int = attrs.field(default=1, init=False)
    _unconfirmed: dict[int, Deferred[None]] = attrs.field(factory=dict, init=False)
    _lost: bool = attrs.field(default=False, init=False)

    @classmethod
    async def enable(cls, channel: Channel, on_unroutable: Callable[[], None] = lambda: None) -> Confirms:
        """Enable publisher confirms on a channel.

        :raises Closed: the channel is closed.
        """
        await channel.confirm_select()
        confirms = cls(channel, on_unroutable)
        channel.on_confirm = confirms._confirm
        channel.on_return = confirms._return
        return confirms

    def __len__(self) -> int:
        return len(self._unconfirmed)

    def publish(self, queue: str, content: Content) -> Deferred[None]:
        """Publish a message to a queue.

        The message's ``message-id`` is set, by which a returned message is recognized.

        :return: fires when the broker has confirmed the message.
        :raises PublishRefused: (asynchronously) the broker rejected the message, the queue does not exist, or the
            connection was lost.
        """
        if self._lost:
            return fail(PublishRefused("the connection is lost"))
        tag = self._next_tag
        content.properties["message-id"] = str(tag)
        self.channel.basic_publish(routing_key=queue, mandatory=True, content=content).addErrback(
            lambda failure: failure.trap(Closed)
        )
        # The broker numbers the messages that it receives: a tag is used up only if the message was sent.
        self._next_tag += 1
        confirmed: Deferred[None] = Deferred()
        self._unconfirmed[tag] = confirmed
        return confirmed

    def lose(self) -> None:
        """Fail all unconfirmed messages, because the channel is closed."""
        self._lost = True
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for confirmed in unconfirmed.values():
            confirmed.errback(PublishRefused("the connection was lost before the broker confirmed the message"))

    def _confirm(self, tag: int, multiple: bool, acknowledged: bool) -> None:
        tags = [known for known in self._unconfirmed if known <= tag] if multiple else [tag]
        for each in tags:
            confirmed = self._unconfirmed.pop(each, None)
            if confirmed is None:
                continue
            if acknowledged:
                confirmed.callback(None)
            else:
                confirmed.errback(PublishRefused("the broker rejected the message"))

    def _return(self, message: Message) -> None:
        # The return precedes a positive confirm of the same message, which then does not mean that it was queued.
        log.error("the broker has no queue {queue}: {text}", queue=message.routing_key, text=message.reply_text)
        confirmed = self._unconfirmed.pop(int(message.content["message-id"]), None)
        self.on_unroutable()
        if confirmed is not None:
            confirmed.errback(PublishRefused("the broker has no queue for the message"))
