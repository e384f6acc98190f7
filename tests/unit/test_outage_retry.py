"""Work is retried during outages of the database, and leases are renewed through them.

The repository is a fake, because no real database fails at exactly the right moments.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Iterator

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from barbtx.errors import ServiceUnavailable
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.records import GeneratedObjects, Lease, NewSecret, Order
from barbtx.model.repositories.order_tasks import LeaseLost
from barbtx.queue.server import Tasks
from barbtx.queue.transport import RetryLater
from barbtx.tasks.base import TaskSuperseded
from barbtx.tasks.leases import Leases
from barbtx.tasks.outage_retry import OutageRetry
from barbtx.tasks.type_order import BeginTypeOrder

ORDER_ID = "0e2bd3bf-6c1e-4dbb-9c74-5d2f9f1b2c0a"
_NOW = datetime.datetime(2026, 1, 1)
LEASE = Lease(Order(ORDER_ID, "p", "key", "{}", "u", "PENDING", _NOW, _NOW), "token", 1)


@attrs.define
class Orders:
    """:ivar outcomes: outcomes of successive calls, such as ``down`` or ``lost``; further calls succeed.
    :ivar calls: the times of the calls.
    """

    clock: Clock
    outcomes: Iterator[str] = attrs.field(factory=lambda: iter(()))
    calls: list[float] = attrs.field(factory=list)
    result: object = None

    def _call(self, *_: object) -> Deferred:
        self.calls.append(self.clock.seconds())
        outcome = next(self.outcomes, "done")
        errors = {
            "down": ServiceUnavailable("down"),
            "database": DatabaseUnavailable("down"),
            "lost": LeaseLost(),
            "broken": RuntimeError("x"),
        }
        return fail(errors[outcome]) if outcome in errors else succeed(self.result)

    claim = claim_next = renew = complete = fail = retry = release = _call


@given(st.lists(st.sampled_from(["done", "down", "broken"]), max_size=40))
def test_a_lease_is_renewed_until_it_is_lost_whatever_fails_on_the_way(outcomes: list[str]) -> None:
    clock = Clock()
    orders = Orders(clock, iter([*outcomes, "lost"]))
    leases = Leases(orders, clock, 30)
    leases.hold(LEASE)
    clock.pump([0.5] * 2000)
    assert len(orders.calls) == len(outcomes) + 1
    for outcome, before, after in zip(outcomes, orders.calls, orders.calls[1:], strict=False):
        # After a failure, there are several attempts before the lease expires.
        assert after - before <= (10.5 if outcome == "done" else 3)
    leases.drop(LEASE)
    assert clock.getDelayedCalls() == []


def test_a_lease_that_is_let_go_is_not_renewed() -> None:
    clock = Clock()
    orders = Orders(clock)
    leases = Leases(orders, clock, 30)
    leases.hold(LEASE)
    clock.pump([1] * 25)
    leases.drop(LEASE)
    clock.pump([1] * 100)
    assert len(orders.calls) == 2 and clock.getDelayedCalls() == []


def test_releasing_goes_on_although_one_release_fails() -> None:
    clock = Clock()
    orders = Orders(clock, iter(["down", "done"]))
    leases = Leases(orders, clock, 30)
    leases.hold(LEASE)
    leases.hold(attrs.evolve(LEASE, token="another"))
    released = Deferred.fromCoroutine(leases.release_all())
    assert released.called and len(orders.calls) == 2 and clock.getDelayedCalls() == []


@pytest.mark.parametrize("outage", [0, 1, 45, 300])
def test_work_resumes_soon_after_an_outage_and_without_a_hot_loop(outage: int) -> None:
    clock = Clock()
    outage_retry, tries = OutageRetry(clock, 600), []

    async def work() -> str:
        tries.append(clock.seconds())
        if clock.seconds() < outage:
            raise ServiceUnavailable("down")
        return "done"

    done = Deferred.fromCoroutine(outage_retry.run_until_available(work))
    clock.pump([0.05] * (outage + 3) * 20)
    assert done.result == "done"
    assert tries[-1] - outage <= 2.5 and len(tries) <= 12 + 4 * outage


def test_an_outage_that_is_too_long_or_a_stop_ends_the_waiting() -> None:
    clock = Clock()
    for outage_retry, waited in ((OutageRetry(clock, 10), 13), (OutageRetry(clock, 1e9), 50)):
        outcome = Deferred.fromCoroutine(outage_retry.run_until_available(lambda: fail(ServiceUnavailable("down"))))
        clock.pump([0.1] * 10 * waited)
        if waited == 50:
            assert not outcome.called
            outage_retry.stop()
        outcome.addErrback(lambda failure: failure.trap(ServiceUnavailable))
        assert outcome.result is ServiceUnavailable and clock.getDelayedCalls() == []


def task(clock: Clock, orders: Orders, limit: float = 600) -> BeginTypeOrder:
    return BeginTypeOrder(orders, None, Leases(orders, clock, 30), OutageRetry(clock, limit))


@pytest.mark.parametrize("step", ["complete", "fail", "retry"])
def test_an_outcome_is_stored_when_the_database_is_back(step: str) -> None:
    clock = Clock()
    orders = Orders(clock, iter(["down"] * 5))
    begin = task(clock, orders)
    made = GeneratedObjects((NewSecret("s", "p"),))
    steps = {
        "complete": lambda: begin.handle_success(LEASE, made),
        "fail": lambda: begin.handle_error(
            LEASE, attrs.make_class("F", ["status", "description"])(500, "x"), KeyError()
        ),
        "retry": lambda: begin.handle_error(LEASE, None, ServiceUnavailable("down")),
    }
    done = Deferred.fromCoroutine(steps[step]())
    clock.pump([0.1] * 200)
    assert done.called and len(orders.calls) == 6


class _NeedsDatabase(BeginTypeOrder):
    """Generates keys only while the database is available."""

    def _generator(self, order_type: str) -> Callable[[Lease], Awaitable[GeneratedObjects]]:
        async def make(lease: Lease) -> GeneratedObjects:
            await self.orders.renew(lease, 30)
            return GeneratedObjects((NewSecret("s", "p"),))

        return make


def test_a_database_that_is_away_while_an_order_is_worked_on_is_waited_for() -> None:
    clock = Clock()
    orders = Orders(clock, iter(["database"] * 5))
    begin = _NeedsDatabase(orders, None, Leases(orders, clock, 30), OutageRetry(clock, 600))
    done = Deferred.fromCoroutine(begin.handle_processing(LEASE))
    clock.pump([0.1] * 200)
    assert done.result.secrets and len(orders.calls) == 6


def test_a_store_that_is_away_does_not_keep_others_waiting() -> None:
    clock = Clock()
    orders = Orders(clock, iter(["down"]))
    begin = _NeedsDatabase(orders, None, Leases(orders, clock, 30), OutageRetry(clock, 600))
    done = Deferred.fromCoroutine(begin.handle_processing(LEASE))
    assert done.addErrback(lambda failure: failure.trap(ServiceUnavailable)).called and len(orders.calls) == 1


class _Making(BeginTypeOrder):
    async def handle_processing(self, lease: Lease, *_: object) -> GeneratedObjects:
        return GeneratedObjects((NewSecret("s", "p"),))


class _Failing(BeginTypeOrder):
    async def handle_processing(self, lease: Lease, *_: object) -> GeneratedObjects:
        raise FileNotFoundError("the passphrase went with the order")


@pytest.mark.parametrize("outcomes", [["lost"], ["down", "lost"]])
@pytest.mark.parametrize("kind", [_Making, _Failing])
def test_an_order_that_was_deleted_meanwhile_is_an_ordinary_outcome(
    kind: type[BeginTypeOrder], outcomes: list[str], captured: list[dict]
) -> None:
    clock = Clock()
    orders = Orders(clock, iter(["claimed", *outcomes]), result=LEASE)
    begin = kind(orders, None, Leases(orders, clock, 30), OutageRetry(clock, 600))
    done = Deferred.fromCoroutine(begin.process_and_suppress_exceptions(ORDER_ID, "p"))
    clock.pump([0.1] * 50)
    assert done.called and done.result is None and clock.getDelayedCalls() == []
    assert all(event["log_level"].name == "info" for event in captured), captured


@pytest.fixture
def captured() -> Iterator[list[dict]]:
    from twisted.logger import globalLogPublisher

    events: list[dict] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def test_an_order_that_cannot_be_taken_in_hand_is_not_forgotten() -> None:
    clock = Clock()
    orders = Orders(clock, iter(["down"] * 1000))
    outage_retry = OutageRetry(clock, 600)
    tasks = Tasks(
        lambda: BeginTypeOrder(orders, None, Leases(orders, clock, 30), outage_retry),
        Leases(orders, clock),
        outage_retry,
    )
    done = Deferred.fromCoroutine(tasks.process_type_order(ORDER_ID, "p"))
    clock.pump([0.1] * 5990)
    assert not done.called
    clock.pump([0.1] * 50)
    done.addErrback(lambda failure: failure.trap(RetryLater))
    assert done.result is RetryLater


def test_overtaken_is_no_error_of_the_database() -> None:
    clock = Clock()
    begin = task(clock, Orders(clock, iter(["lost"])))
    done = Deferred.fromCoroutine(begin.handle_success(LEASE, GeneratedObjects((NewSecret("s", "p"),))))
    done.addErrback(lambda failure: failure.trap(TaskSuperseded))
    assert done.result is TaskSuperseded
