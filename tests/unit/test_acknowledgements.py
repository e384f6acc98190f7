"""Messages that end together are acknowledged together, and each one once."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from barbtx.queue.amqp.acknowledgements import Acknowledgements


@attrs.define
class _Broker:
    """What RabbitMQ knows of the messages that it has delivered on a channel."""

    unsettled: list[int]
    closed: bool = False
    frames: int = 0
    returned: list[int] = attrs.field(factory=list)

    def basic_ack(self, *, delivery_tag: int, multiple: bool = False) -> None:
        # RabbitMQ closes the channel otherwise.
        assert delivery_tag in self.unsettled
        self.frames += 1
        self.unsettled = [tag for tag in self.unsettled if (tag > delivery_tag if multiple else tag != delivery_tag)]

    def basic_reject(self, *, delivery_tag: int, requeue: bool) -> None:
        assert requeue
        self.unsettled.remove(delivery_tag)
        self.returned.append(delivery_tag)

    basic_nack = basic_reject


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_messages_that_end_together_need_one_frame(clock: Clock) -> None:
    broker = _Broker([1, 2, 3, 4])
    messages = Acknowledgements(clock, broker)
    for tag in (2, 1, 3):
        messages.acknowledge(tag)
    assert broker.unsettled == [1, 2, 3, 4]
    clock.advance(0)
    assert broker.unsettled == [4] and broker.frames == 1


def test_a_message_that_takes_long_does_not_hold_up_the_others(clock: Clock) -> None:
    broker = _Broker([1, 2, 3])
    messages = Acknowledgements(clock, broker)
    messages.acknowledge(2)
    messages.acknowledge(3)
    clock.advance(0)
    assert broker.unsettled == [1]
    messages.acknowledge(1)
    clock.advance(0)
    assert broker.unsettled == []


def test_what_waits_is_sent_before_the_channel_is_closed(clock: Clock) -> None:
    broker = _Broker([1])
    messages = Acknowledgements(clock, broker)
    messages.acknowledge(1)
    messages.flush()
    assert broker.unsettled == [] and not clock.getDelayedCalls()


def test_nothing_is_sent_on_a_closed_channel(clock: Clock) -> None:
    broker = _Broker([1, 2, 3], closed=True)
    messages = Acknowledgements(clock, broker)
    messages.acknowledge(1)
    messages.reject(2)
    messages.requeue(3)
    clock.advance(0)
    assert broker.unsettled == [1, 2, 3]


@given(
    st.permutations(range(1, 9)), st.lists(st.sampled_from(["acknowledge", "reject", "requeue"]), min_size=8), st.data()
)
def test_each_message_is_settled_once_whatever_the_order(tags: list[int], ways: list[str], data: st.DataObject) -> None:
    clock, broker = Clock(), _Broker(list(range(1, 9)))
    messages = Acknowledgements(clock, broker)
    for tag, way in zip(tags, ways, strict=False):
        getattr(messages, way)(tag)
        if data.draw(st.booleans()):
            clock.advance(0)
    clock.advance(0)
    assert broker.unsettled == []
    assert sorted(broker.returned) == sorted(tag for tag, way in zip(tags, ways, strict=False) if way != "acknowledge")
