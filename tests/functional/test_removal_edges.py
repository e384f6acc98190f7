"""Removals of projects: ids that a database takes for another's, and the orders of a project that stays after all."""

from __future__ import annotations

import uuid

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from barbtx.model.database import Database
from barbtx.model.records import Task
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.pending_removals import PendingRemovalRepo, cancel_removal
from barbtx.queue.transport import InvalidMessage
from tests.functional.test_project_removal import notification
from workers.keystone_notifications import deleted_project

HOUR = 3600.0


@pytest.fixture
def removals(database: Database, clock: Clock) -> PendingRemovalRepo:
    return PendingRemovalRepo(database, clock, lease_seconds=30, max_attempts=3, longest_wait=60, max_unconfirmed=5)


async def close(removals: PendingRemovalRepo, project: str, grace: float = 24 * HOUR) -> None:
    await removals.request(project)
    await removals.confirm(await removals.claim(), grace)


@pytest.mark.parametrize("project_id", ["p ", " p", "p  ", "p q", " ", "p\u00a0", "p\t"])
def test_an_id_that_a_database_may_take_for_another_is_none(project_id: str) -> None:
    """To MariaDB an id with spaces at its end is the one without; Keystone knows nothing of it, and would say so."""
    with pytest.raises(InvalidMessage):
        deleted_project(notification(project_id))


@pytest.mark.parametrize("how", ["cancelled by an operator", "in Keystone after all"])
@pytest_twisted.ensureDeferred
async def test_orders_go_on_at_once_when_their_project_stays(
    database: Database, clock: Clock, removals: PendingRemovalRepo, how: str
) -> None:
    """The longer nobody takes a task, the more seldom it is published, and nobody takes one of a closed project."""
    orders = OrderRepo(database, clock)
    ids = {project: str(uuid.uuid4()) for project in ("p", "another")}
    for project, order_id in ids.items():
        task = Task(order_id, "process_type_order", {"order_id": order_id, "project_id": project})
        await orders.create(order_id, project, "key", "{}", "u", task, 5)
    retried = str(uuid.uuid4())
    await orders.create(retried, "p", "key", "{}", "u", Task(retried, "process_type_order", {}), 5)
    await close(removals, "p")
    for _ in range(24):
        clock.advance(HOUR)
        assert len(await orders.take_due(10, 60)) == 3
        assert await orders.claim(ids["p"], "p", 30) is None
    assert await orders.take_due(10, 60) == []
    if how == "in Keystone after all":
        await removals.withdraw(await removals.claim())
    else:
        await database.interact(lambda session: cancel_removal(session, "p"))
    assert {task.order_id for task in await orders.take_due(10, 60)} == {ids["p"], retried}
    assert await orders.claim(ids["p"], "p", 30) is not None
