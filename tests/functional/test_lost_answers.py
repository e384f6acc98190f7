"""A task's transaction is committed, but its confirmation is lost: barbtx finds out what it did, and nothing waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from barbtx.config import load
from barbtx.model.database import Database
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.records import SYMMETRIC
from barbtx.model.repositories.orders import Claim, OrderRepo
from barbtx.queue.client import TaskClient
from barbtx.queue.local import LocalTransport
from barbtx.queue.retry_scheduler import RetryScheduler
from barbtx.tasks.lanes import Lane
from barbtx.tasks.leases import Leases
from barbtx.tasks.outage_retry import OutageRetry
from barbtx.tasks.type_order import BeginTypeOrder
from tests.functional.test_order_tasks import due, new_order


@contextlib.contextmanager
def answers_lost(database: Database, count: int = 1, committed: bool = True) -> Iterator[None]:
    """The next writes are committed, or not, and then the connection is lost. No server does this on request."""
    dialect, commit, left = database.engine.dialect, database.engine.dialect.do_commit, [count]

    def lose(connection: Any) -> None:
        if not left[0]:
            return commit(connection)
        left[0] -= 1
        (commit if committed else dialect.do_rollback)(connection)
        raise RuntimeError("no answer")

    dialect.do_commit = lose
    try:
        yield
        assert not left[0]
    finally:
        dialect.do_commit = commit


@pytest.fixture
def orders(database: Database, clock: Clock) -> OrderRepo:
    return OrderRepo(database, clock)


def task(orders: OrderRepo) -> BeginTypeOrder:
    from twisted.internet import reactor

    return BeginTypeOrder(orders, None, Leases(orders, reactor, 30), OutageRetry(reactor, 60))


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("losses", [1, 3])
@pytest.mark.parametrize("way", ["named", "turn", "served"])
@pytest_twisted.ensureDeferred
async def test_an_order_taken_in_hand_without_a_word_is_processed_by_whoever_took_it(
    database: Database, orders: OrderRepo, clock: Clock, way: str, losses: int, committed: bool
) -> None:
    order_id = await new_order(orders)
    clock.advance(1)
    other_id = await new_order(orders)
    begin, lane = task(orders), None if way == "named" else Lane(SYMMETRIC)
    named = (None, None) if way == "served" else (order_id, "p")
    with answers_lost(database, losses, committed):
        lease = await begin.retrieve_entity(*named, lane)
    assert lease is not None and lease.order.id == order_id and lease.attempt == 1
    begin.release_entity(lease)
    # The other order is still there for others, and nobody else gets the first.
    assert await orders.claim(order_id, "p", 30) is None
    assert (await orders.claim_next(SYMMETRIC, "", 30)).order.id == other_id
    await orders.release(lease)
    assert (await orders.claim(order_id, "p", 30)).attempt == 1


@pytest_twisted.ensureDeferred
async def test_a_claim_that_another_has_overtaken_meanwhile_is_over(
    database: Database, orders: OrderRepo, clock: Clock
) -> None:
    order_id = await new_order(orders)
    claim = Claim()
    with answers_lost(database), pytest.raises(DatabaseUnavailable):
        await orders.claim(order_id, "p", 30, claim)
    clock.advance(31)
    theirs = await orders.claim(order_id, "p", 30)
    assert await orders.claim(order_id, "p", 30, claim) is None
    await orders.renew(theirs, 30)
    await orders.delete(order_id, "p")
    assert await orders.claim_next(SYMMETRIC, "", 30, claim=claim) is None


@pytest.mark.parametrize("committed", [True, False])
@pytest_twisted.ensureDeferred
async def test_due_tasks_that_nobody_was_given_are_due_again_at_once(
    database: Database, orders: OrderRepo, clock: Clock, committed: bool
) -> None:
    order_id = await new_order(orders)
    # An hour old, so that it would be put off for an hour.
    clock.advance(3600)
    scheduler = RetryScheduler(None, load([], []), orders, TaskClient(LocalTransport(None, 0, 10)))
    with answers_lost(database, committed=committed):
        assert await scheduler._round() is False
    assert await due(orders) == (set() if committed else {order_id})
    clock.advance(1)
    await scheduler._reset_unsent()
    assert await due(orders) == {order_id}
