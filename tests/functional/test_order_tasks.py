"""Which task is due and which project has its turn, whatever the clocks do, on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

import datetime
import uuid

import attrs
import pytest
import pytest_twisted
from sqlalchemy import Update, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import gatherResults
from twisted.internet.task import Clock

from barbtx.errors import NotFound
from barbtx.model.database import Database
from barbtx.model.database_time import database_time
from barbtx.model.models import OrderRetryTask
from barbtx.model.records import ASYMMETRIC, SYMMETRIC, GeneratedObjects, Lease, NewSecret
from barbtx.model.repositories import order_tasks
from barbtx.model.repositories.order_tasks import LeaseLost, WrongLane
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER, order_task
from tests.functional.conftest import NOW

HOUR = 3600


@pytest.fixture
def orders(database: Database, clock: Clock) -> OrderRepo:
    return OrderRepo(database, clock)


async def new_order(orders: OrderRepo, project: str = "p", type_: str = "key") -> str:
    order_id = str(uuid.uuid4())
    await orders.create(order_id, project, type_, "{}", "u", order_task(order_id, project, "req-1"), 5)
    return order_id


async def change(database: Database, statement: Update) -> None:
    def work(session: Session) -> None:
        session.execute(statement)

    await database.interact(work)


async def due(orders: OrderRepo, *, permits: bool = False) -> set[str]:
    return {task.order_id for task in await orders.take_due(10, 60, permits=permits)}


@pytest.mark.parametrize("jump", [61, HOUR, 400 * 24 * HOUR])
@pytest_twisted.ensureDeferred
async def test_what_a_clock_that_ran_ahead_has_written_holds_nothing_up(
    orders: OrderRepo, clock: Clock, jump: int
) -> None:
    for write in ("create", "take_due", "claim", "renew", "retry", "release", "make_due"):
        order_id = None if write == "create" else await new_order(orders)
        lease = await orders.claim(order_id, "p", 30) if write in ("renew", "retry", "release") else None
        clock.advance(jump)
        if write == "create":
            order_id = await new_order(orders)
        elif write == "take_due":
            assert await due(orders) == {order_id}
        elif write == "claim":
            await orders.claim(order_id, "p", 30)
        elif write == "renew":
            await orders.renew(lease, 30)
        elif write == "retry":
            await orders.retry(lease, PROCESS_TYPE_ORDER, 7)
        elif write == "release":
            await orders.release(lease)
        else:
            await orders.make_due([order_id], 60)
        clock.rightNow -= jump
        assert await due(orders) == {order_id}, write
        assert await due(orders) == set(), write
        taken = await orders.claim(order_id, "p", 30)
        assert taken, write
        await finish(orders, taken)


@pytest.mark.parametrize("ahead", [2 * HOUR, 1000 * 24 * HOUR])
@pytest_twisted.ensureDeferred
async def test_a_time_that_cannot_be_right_counts_as_past(database: Database, orders: OrderRepo, ahead: int) -> None:
    order_id = await new_order(orders)
    far = NOW + datetime.timedelta(seconds=ahead)
    await change(
        database, update(OrderRetryTask).values(retry_at=far, leased_until=far, lease="somebody's", written_at=None)
    )
    assert await due(orders) == {order_id}
    assert await orders.claim(order_id, "p", 30)


@pytest.mark.parametrize("seconds", [0, 5, 10 * HOUR, 10**9])
@pytest_twisted.ensureDeferred
async def test_no_task_waits_for_longer_than_an_hour(orders: OrderRepo, clock: Clock, seconds: int) -> None:
    order_id = await new_order(orders)
    await orders.retry(await orders.claim(order_id, "p", 30), PROCESS_TYPE_ORDER, seconds)
    if seconds:
        clock.advance(min(seconds, HOUR) - 1)
        assert await due(orders) == set()
    clock.advance(1)
    assert await due(orders) == {order_id}


@pytest_twisted.ensureDeferred
async def test_tasks_live_by_the_databases_clock_and_not_by_the_nodes(database: Database, clock: Clock) -> None:
    right, wrong = [attrs.evolve(OrderRepo(database, clock), task_time=database_time) for _ in range(2)]
    order_id = await new_order(right)
    clock.advance(5 * HOUR)
    assert await due(wrong) == set()
    lease = await wrong.claim(order_id, "p", 30)
    clock.advance(5 * HOUR)
    assert await right.claim(order_id, "p", 30) is None
    await right.renew(lease, 30)
    there = await database.interact(database_time)
    written = await database.interact(lambda session: session.scalar(select(OrderRetryTask.written_at)))
    here = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    assert abs((there - here).total_seconds()) < 30 and abs((there - written).total_seconds()) < 30


@pytest_twisted.ensureDeferred
async def test_what_could_not_be_published_is_due_again_at_once_whatever_its_age(
    orders: OrderRepo, clock: Clock
) -> None:
    order_id, taken = await new_order(orders), await new_order(orders)
    clock.advance(1000)
    assert await due(orders) == {order_id, taken}
    await orders.claim(taken, "p", 30)
    await orders.make_due([order_id, taken, str(uuid.uuid4())], 60)
    assert await due(orders) == {order_id}


@pytest_twisted.ensureDeferred
async def test_what_is_merely_queued_is_not_published_again_while_orders_of_its_lane_are_done(
    orders: OrderRepo, clock: Clock
) -> None:
    done, queued, retried, pair = [
        await new_order(orders, type_=type_) for type_ in ("key", "key", "key", "asymmetric")
    ]
    await orders.retry(await orders.claim(retried, "p", 30), PROCESS_TYPE_ORDER, 7)
    clock.advance(7)
    await finish(orders, await orders.claim(done, "p", 30))

    async def permits() -> set[str]:
        return await due(orders, permits=True)

    # The other lane makes no progress, and nobody has published the retry.
    assert await permits() == {retried, pair}
    clock.advance(6)
    # Now this one makes none either, so that messages may be lost.
    assert await permits() == {queued}
    clock.advance(60)
    await finish(orders, await orders.claim(retried, "p", 30))
    await finish(orders, await orders.claim(await new_order(orders), "p", 30))
    assert await permits() == {pair}
    clock.advance(60)
    await finish(orders, await orders.claim(await new_order(orders), "p", 30))
    # It waits for so long that something may be wrong with it.
    assert queued in await permits()


@pytest_twisted.ensureDeferred
async def test_what_has_no_message_is_published_at_once_although_orders_of_its_lane_are_done(
    database: Database, orders: OrderRepo
) -> None:
    done, released, refused, closed, queued = [
        await new_order(orders, project) for project in ("p", "p", "p", "closed", "p")
    ]
    await finish(orders, await orders.claim(done, "p", 30))
    await orders.release(await orders.claim(released, "p", 30))
    await orders.make_due([refused], 60)
    await database.interact(lambda session: order_tasks.make_project_due(session, "closed"))
    assert await due(orders, permits=True) == {released, refused, closed}
    assert await due(orders, permits=True) == set()
    assert (await orders.claim(queued, "p", 30)).attempt == 1


async def finish(orders: OrderRepo, lease: Lease) -> None:
    await orders.complete(lease, GeneratedObjects((NewSecret(id=str(uuid.uuid4()), project_id="p"),)), "s", "m")


@pytest_twisted.ensureDeferred
async def test_projects_take_turns_and_each_gets_its_orders_done_in_their_order(
    orders: OrderRepo, clock: Clock
) -> None:
    made: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for project, count in (("a", 12), ("b", 3), ("c", 1)):
        for _ in range(count):
            made[project].append(await new_order(orders, project))
            clock.advance(0.001)
    order_of_turns, after = [], ""
    for sent_for in made["a"]:
        lease = await orders.claim_next(SYMMETRIC, after, 30, sent_for, "a")
        after = lease.project_key
        order_of_turns.append((lease.order.project_id, lease.order.id))
        await finish(orders, lease)
    projects = [project for project, _ in order_of_turns]
    assert set(projects[:3]) == {"a", "b", "c"} and projects[7:] == ["a"] * 5
    for project, ids in made.items():
        assert [order_id for owner, order_id in order_of_turns if owner == project] == ids[: projects.count(project)]
    for _ in range(4):
        await finish(orders, await orders.claim_next(SYMMETRIC, after, 30))
    assert await orders.claim_next(SYMMETRIC, after, 30) is None
    # A message for an order that has ended claims nothing.
    assert await orders.claim_next(SYMMETRIC, after, 30, made["b"][0], "b") is None
    with pytest.raises(NotFound):
        await orders.claim_next(SYMMETRIC, after, 30, str(uuid.uuid4()), "a")


@pytest_twisted.ensureDeferred
async def test_lanes_do_not_mix(orders: OrderRepo) -> None:
    pair, key = await new_order(orders, type_="asymmetric"), await new_order(orders)
    with pytest.raises(WrongLane) as raised:
        await orders.claim_next(SYMMETRIC, "", 30, pair, "p")
    assert raised.value.lane == ASYMMETRIC
    assert (await orders.claim_next(SYMMETRIC, "", 30)).order.id == key
    assert await orders.claim_next(SYMMETRIC, "", 30) is None
    lease = await orders.claim_next(ASYMMETRIC, "", 30)
    assert (lease.order.id, lease.request_id) == (pair, "req-1")


@pytest_twisted.ensureDeferred
async def test_no_two_get_the_same_turn(orders: OrderRepo) -> None:
    made = {await new_order(orders, f"p{n % 3}") for n in range(12)}
    leases = await gatherResults([orders.claim_next(SYMMETRIC, "", 30) for _ in range(16)])
    taken = [lease.order.id for lease in leases if lease is not None]
    assert len(taken) == len(set(taken))
    while lease := await orders.claim_next(SYMMETRIC, "", 30):
        taken.append(lease.order.id)
    assert sorted(taken) == sorted(made)


@pytest_twisted.ensureDeferred
async def test_what_is_put_off_waits_for_its_time_unless_somebody_is_sent_for_it(
    orders: OrderRepo, clock: Clock
) -> None:
    order_id = await new_order(orders)
    await orders.retry(await orders.claim_next(SYMMETRIC, "", 30), PROCESS_TYPE_ORDER, 7)
    assert await orders.claim_next(SYMMETRIC, "", 30) is None
    clock.advance(7)
    assert await due(orders) == {order_id}
    released = await orders.claim_next(SYMMETRIC, "", 30)
    assert released.attempt == 2
    await orders.release(released)
    assert (await orders.claim_next(SYMMETRIC, "", 30)).attempt == 2


@pytest_twisted.ensureDeferred
async def test_the_row_of_a_release_before_is_taken_by_whoever_is_sent_for_it(
    database: Database, orders: OrderRepo
) -> None:
    old, other = await new_order(orders), await new_order(orders)
    await change(
        database,
        update(OrderRetryTask)
        .where(OrderRetryTask.order_id == old)
        .values(waits_in=None, written_at=None, project_id=None),
    )
    assert (await orders.claim_next(SYMMETRIC, "", 30, old, "p")).order.id == old
    assert (await orders.claim_next(SYMMETRIC, "", 30, old, "p")).order.id == other


@pytest_twisted.ensureDeferred
async def test_an_outcome_may_be_stored_again_if_it_is_unknown_whether_it_was(orders: OrderRepo) -> None:
    made = GeneratedObjects((NewSecret(id=str(uuid.uuid4()), project_id="p"),))
    lease = await orders.claim(await new_order(orders), "p", 30)
    for _ in range(2):
        await orders.complete(lease, made, "s", "m")
    with pytest.raises(LeaseLost):
        await orders.fail(lease, "500", "reason")
    lease = await orders.claim(await new_order(orders), "p", 30)
    for _ in range(2):
        await orders.fail(lease, "500", "reason")
    with pytest.raises(LeaseLost):
        await orders.complete(
            lease, attrs.evolve(made, secrets=(NewSecret(id=str(uuid.uuid4()), project_id="p"),)), "s", "m"
        )


@pytest.mark.parametrize("deleted", [0, 1])
@pytest_twisted.ensureDeferred
async def test_what_was_stored_stays_so_although_its_owner_has_deleted_a_part_of_it(
    database: Database, clock: Clock, orders: OrderRepo, deleted: int
) -> None:
    pair = GeneratedObjects(tuple(NewSecret(id=str(uuid.uuid4()), project_id="p") for _ in range(2)))
    lease = await orders.claim(await new_order(orders), "p", 30)
    await orders.complete(lease, pair, "s", "m")
    await SecretRepo(database, clock).delete(pair.secrets[deleted].id)
    await orders.complete(lease, pair, "s", "m")
    await SecretRepo(database, clock).delete(pair.secrets[1 - deleted].id)
    with pytest.raises(LeaseLost):
        await orders.complete(lease, pair, "s", "m")
