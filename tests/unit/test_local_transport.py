"""The transport that runs tasks in the API process."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from barbtx.queue.local import LocalTransport
from barbtx.queue.transport import InvalidMessage, PublishRefused, TaskMessage
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER

MESSAGE = TaskMessage(PROCESS_TYPE_ORDER, {})


class Gates:
    """Tasks that run until the test ends them."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[None]] = []

    async def release_orders(self) -> None:
        self.given_back = True

    async def dispatch(self, message: TaskMessage) -> None:
        self.waiting.append(Deferred())
        await self.waiting[-1]


@pytest.fixture
def tasks() -> Gates:
    return Gates()


@pytest.fixture
def transport(tasks: Gates) -> LocalTransport:
    return LocalTransport(tasks, concurrency=2, max_waiting=4)


def test_so_many_run_at_once_and_the_rest_wait(tasks: Gates, transport: LocalTransport) -> None:
    sent = [transport.send(MESSAGE) for _ in range(3)]
    assert len(tasks.waiting) == 2
    tasks.waiting[0].callback(None)
    assert sent[0].called and not sent[1].called and len(tasks.waiting) == 3


@pytest_twisted.ensureDeferred
async def test_what_does_not_fit_is_refused(transport: LocalTransport) -> None:
    for _ in range(4):
        transport.send(MESSAGE)
    assert not transport.ready
    with pytest.raises(PublishRefused):
        await transport.send(MESSAGE)


def test_a_sender_that_waits_no_longer_does_not_end_the_task(tasks: Gates, transport: LocalTransport) -> None:
    sent = transport.send(MESSAGE)
    sent.addErrback(lambda failure: None)
    sent.cancel()
    assert not tasks.waiting[0].called
    tasks.waiting[0].callback(None)
    assert transport.ready


def test_stopping_ends_what_has_begun_and_begins_nothing_more(tasks: Gates, transport: LocalTransport) -> None:
    for _ in range(4):
        transport.send(MESSAGE)
    stopped = Deferred.fromCoroutine(transport.stop(Clock(), 5))
    assert not stopped.called and not transport.ready
    for gate in tasks.waiting[:2]:
        gate.callback(None)
    assert stopped.result is True and len(tasks.waiting) == 2


def test_what_takes_too_long_to_end_is_given_back(tasks: Gates, transport: LocalTransport) -> None:
    clock = Clock()
    transport.send(MESSAGE)
    stopped = Deferred.fromCoroutine(transport.stop(clock, 5))
    clock.advance(4)
    assert not stopped.called
    clock.advance(2)
    assert stopped.result is False and tasks.given_back


def test_a_task_that_fails_is_logged_and_over(transport: LocalTransport, tasks: Gates) -> None:
    sent = transport.send(MESSAGE)
    tasks.waiting[0].errback(InvalidMessage("x"))
    assert sent.called and transport.ready
