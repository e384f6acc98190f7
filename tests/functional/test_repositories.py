"""Repositories behave alike on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

import datetime
import uuid

import attrs
import pytest
import pytest_twisted
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, insert
from sqlalchemy.exc import IntegrityError
from twisted.internet.defer import gatherResults
from twisted.internet.task import Clock

from barbtx.errors import Conflict, NotFound
from barbtx.model.database import Database
from barbtx.model.models import Base, Project
from barbtx.model.records import (
    EncryptedDatum,
    Entry,
    GeneratedObjects,
    KEKMeta,
    NewContainer,
    NewSecret,
    StoredPayload,
    Task,
)
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.keks import KEKRepo
from barbtx.model.repositories.listing import Condition
from barbtx.model.repositories.orders import LeaseLost, OrderRepo
from barbtx.model.repositories.projects import project_key
from barbtx.model.repositories.secrets import SecretRepo
from tests.functional.conftest import NOW


@pytest.fixture
def orders(database: Database, clock: Clock) -> OrderRepo:
    return OrderRepo(database, clock)


def new_secret(**fields: object) -> NewSecret:
    return NewSecret(**{"id": str(uuid.uuid4()), "project_id": "p", **fields})


async def payload(database: Database, clock: Clock, project: str = "p") -> StoredPayload:
    kek = KEKMeta(str(uuid.uuid4()), "plugin", "label", "aes", 256, "gcm", "wrapped")
    kek = await KEKRepo(database, clock).add_active(project, kek)
    return StoredPayload("store", "text/plain", {"k": "v"}, EncryptedDatum(kek, b"\x00\xffcipher", "extended"))


async def new_order(orders: OrderRepo, project: str = "p", retry_after: float = 5, meta: str = "{}") -> str:
    order_id = str(uuid.uuid4())
    task = Task(order_id, "process_type_order", {"order_id": order_id, "project_id": project, "request_id": None})
    await orders.create(order_id, project, "key", meta, "u", task, retry_after)
    return order_id


@pytest_twisted.ensureDeferred
async def test_the_migrations_make_the_tables_of_the_models(database: Database) -> None:
    def differences(session) -> list:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        return compare_metadata(context, Base.metadata)

    assert await database.interact(differences) == []


@pytest_twisted.ensureDeferred
async def test_a_secret_comes_back_as_it_was_stored(database: Database, secrets: SecretRepo, clock: Clock) -> None:
    new = new_secret(
        name="näme\0\uf8fe🔑",
        secret_type="private",
        algorithm="",
        bit_length=32767,
        mode="m" * 255,
        creator_id="u",
        expiration=datetime.datetime(2090, 1, 2, 3, 4, 5),
        payload=await payload(database, clock),
    )
    await secrets.create(new)
    found = await secrets.get(new.id, with_payload=True)
    for field in attrs.fields(NewSecret):
        assert getattr(found, field.name) == getattr(new, field.name), field.name
    assert found.created == found.updated == NOW and found.content_type == "text/plain"


@pytest_twisted.ensureDeferred
async def test_a_secret_without_payload_has_none(secrets: SecretRepo) -> None:
    new = new_secret()
    await secrets.create(new)
    found = await secrets.get(new.id, with_payload=True)
    assert found.payload is None and found.content_type is None


@pytest_twisted.ensureDeferred
async def test_a_payload_is_added_once(database: Database, secrets: SecretRepo, clock: Clock) -> None:
    new, stored = new_secret(), await payload(database, clock)
    await secrets.create(new)
    clock.advance(1)
    await secrets.add_payload(new.id, stored)
    found = await secrets.get(new.id, with_payload=True)
    assert found.payload == stored and found.updated > found.created
    with pytest.raises(Conflict):
        await secrets.add_payload(new.id, stored)
    with pytest.raises(NotFound):
        await secrets.add_payload(str(uuid.uuid4()), stored)


@pytest_twisted.ensureDeferred
async def test_of_concurrent_payloads_one_wins(database: Database, secrets: SecretRepo, clock: Clock) -> None:
    new, stored = new_secret(), await payload(database, clock)
    await secrets.create(new)
    outcomes = []
    await gatherResults(
        [
            secrets.add_payload(new.id, stored).addCallbacks(
                lambda _: outcomes.append("stored"), lambda f: outcomes.append(f.trap(Conflict).__name__)
            )
            for _ in range(8)
        ]
    )
    assert sorted(outcomes) == ["Conflict"] * 7 + ["stored"]


@pytest_twisted.ensureDeferred
async def test_an_expired_secret_is_gone(secrets: SecretRepo, clock: Clock) -> None:
    new = new_secret(expiration=NOW.replace(microsecond=0) + datetime.timedelta(seconds=5))
    await secrets.create(new)
    assert await secrets.get(new.id)
    clock.advance(5)
    assert await secrets.get(new.id) is None
    assert (await secrets.list_page("p", (), (), 10, 0)).total == 0


@pytest_twisted.ensureDeferred
async def test_a_deleted_secret_leaves_nothing(database: Database, secrets: SecretRepo, clock: Clock) -> None:
    new = new_secret(payload=await payload(database, clock))
    await secrets.create(new)
    await secrets.delete(new.id)
    assert await secrets.get(new.id) is None
    rows = await database.interact(lambda s: s.connection().exec_driver_sql("SELECT * FROM encrypted_data").all())
    assert rows == []
    with pytest.raises(NotFound):
        await secrets.delete(new.id)


@pytest_twisted.ensureDeferred
async def test_lists_are_stable_and_only_of_the_project(secrets: SecretRepo, clock: Clock) -> None:
    made = [new_secret() for _ in range(5)]
    for secret in made:
        await secrets.create(secret)
    await secrets.create(new_secret(project_id="q"))
    ids = sorted(secret.id for secret in made)
    first, second = [await secrets.list_page("p", (), (), 3, offset) for offset in (0, 3)]
    assert [secret.id for secret in (*first.items, *second.items)] == ids
    assert first.total == second.total == 5
    assert (await secrets.list_page("p", (), (), 3, 2**63 - 1)).items == ()


@pytest_twisted.ensureDeferred
async def test_nulls_are_smallest_and_text_sorts_by_code_point(secrets: SecretRepo) -> None:
    for name in ("b", None, "a", "B", "é", "_"):
        await secrets.create(new_secret(name=name))
    ascending = await secrets.list_page("p", (), (("name", False),), 10, 0)
    assert [secret.name for secret in ascending.items] == [None, "B", "_", "a", "b", "é"]
    descending = await secrets.list_page("p", (), (("name", True),), 10, 0)
    assert [secret.name for secret in descending.items] == ["é", "b", "a", "_", "B", None]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("ALPHA", ["alpha"]),
        ("al%", ["alpha"]),
        ("a_pha", ["alpha"]),
        ("100%", ["100%"]),
        ("100_", ["100%"]),
        ("100\\%", []),
        ("back\\slash", ["back\\slash"]),
        ("back\\%", ["back\\slash"]),
        ("back\\\\slash", []),
        ("alpha\\", []),
        ("nothing", []),
    ],
)
@pytest_twisted.ensureDeferred
async def test_like_is_the_same_everywhere(secrets: SecretRepo, pattern: str, found: list[str]) -> None:
    for name in ("alpha", "100%", "back\\slash", None):
        await secrets.create(new_secret(name=name))
    page = await secrets.list_page("p", (Condition("name", "like", pattern),), (), 10, 0)
    assert [secret.name for secret in page.items] == found


@pytest_twisted.ensureDeferred
async def test_times_compare_to_the_microsecond(secrets: SecretRepo) -> None:
    await secrets.create(new_secret())
    for comparison, moment, total in (
        ("eq", NOW, 1),
        ("gt", NOW, 0),
        ("gte", NOW, 1),
        ("lt", NOW + datetime.timedelta(microseconds=1), 1),
    ):
        assert (await secrets.list_page("p", (Condition("created", comparison, moment),), (), 10, 0)).total == total


@pytest_twisted.ensureDeferred
async def test_two_who_make_the_same_project_get_the_same(database: Database, clock: Clock) -> None:
    def work(session) -> tuple[str, str]:
        def other_transaction() -> None:
            with database.engine.connect() as connection:
                connection.execute(insert(Project).values(id="other", external_id="raced", created_at=NOW))
                connection.commit()

        hook = (
            other_transaction
            if database.engine.dialect.name != "sqlite"
            # SQLite has one writer: the other one can only have been here before, in our own transaction.
            else (lambda: session.execute(insert(Project).values(id="other", external_id="raced", created_at=NOW)))
        )
        return project_key(session, "raced", NOW, hook), project_key(session, "raced", NOW)

    assert await database.interact(work) == ("other", "other")


@pytest_twisted.ensureDeferred
async def test_a_project_has_one_active_key_however_many_make_one(database: Database, clock: Clock) -> None:
    repo = KEKRepo(database, clock)
    made = await gatherResults(
        [repo.add_active("p", KEKMeta(str(uuid.uuid4()), "plugin", "l", "aes", 256, "gcm", str(n))) for n in range(8)]
    )
    assert len({kek.id for kek in made}) == 1
    assert await repo.get_active("p", "plugin") == made[0]
    assert await repo.get_active("p", "another") is None


@pytest_twisted.ensureDeferred
async def test_work_that_fails_leaves_nothing_behind(database: Database) -> None:
    def work(session) -> None:
        project_key(session, "half", NOW)
        session.execute(insert(Project).values(id="x", external_id="half", created_at=NOW))

    with pytest.raises(IntegrityError):
        await database.interact(work)
    count = await database.interact(lambda s: s.query(Project).filter_by(external_id="half").count())
    assert count == 0


@pytest_twisted.ensureDeferred
async def test_an_order_is_claimed_by_one_worker_at_a_time(orders: OrderRepo) -> None:
    order_id = await new_order(orders)
    leases = await gatherResults([orders.claim(order_id, "p", 30) for _ in range(8)])
    assert len([lease for lease in leases if lease]) == 1


@pytest_twisted.ensureDeferred
async def test_a_claim_ends_when_it_is_not_renewed(orders: OrderRepo, clock: Clock) -> None:
    order_id = await new_order(orders)
    first = await orders.claim(order_id, "p", 30)
    clock.advance(20)
    await orders.renew(first, 30)
    clock.advance(20)
    assert await orders.claim(order_id, "p", 30) is None
    clock.advance(10)
    second = await orders.claim(order_id, "p", 30)
    assert (first.attempt, second.attempt) == (1, 2)
    with pytest.raises(LeaseLost):
        await orders.renew(first, 30)
    with pytest.raises(LeaseLost):
        await orders.complete(first, GeneratedObjects((new_secret(),)), "s", "m")


@pytest_twisted.ensureDeferred
async def test_a_completed_order_has_its_secret_and_no_task(orders: OrderRepo, secrets: SecretRepo) -> None:
    order_id, made = await new_order(orders), new_secret()
    lease = await orders.claim(order_id, "p", 30)
    await orders.complete(lease, GeneratedObjects((made,)), "s" * 40, "m" * 300)
    order = await orders.get(order_id, "p")
    assert (order.status, order.secret_id) == ("ACTIVE", made.id)
    assert (order.sub_status, order.sub_status_message) == ("s" * 36, "m" * 255)
    assert await secrets.get(made.id)
    assert await orders.claim(order_id, "p", 30) is None


@pytest_twisted.ensureDeferred
async def test_what_an_order_made_is_not_stored_twice(orders: OrderRepo, secrets: SecretRepo) -> None:
    order_id, second = await new_order(orders), new_secret()
    lease = await orders.claim(order_id, "p", 30)
    await orders.complete(lease, GeneratedObjects((new_secret(),)), "s", "m")
    with pytest.raises(LeaseLost):
        await orders.complete(lease, GeneratedObjects((second,)), "s", "m")
    assert await secrets.get(second.id) is None


@pytest_twisted.ensureDeferred
async def test_an_order_deleted_in_the_middle_stores_nothing(orders: OrderRepo, secrets: SecretRepo) -> None:
    order_id, made = await new_order(orders), new_secret()
    lease = await orders.claim(order_id, "p", 30)
    await orders.delete(order_id, "p")
    with pytest.raises(LeaseLost):
        await orders.complete(lease, GeneratedObjects((made,)), "s", "m")
    assert await secrets.get(made.id) is None


@pytest_twisted.ensureDeferred
async def test_a_failed_order_keeps_as_much_of_the_reason_as_fits(orders: OrderRepo) -> None:
    order_id = await new_order(orders)
    await orders.fail(await orders.claim(order_id, "p", 30), "400", "r" * 300)
    order = await orders.get(order_id, "p")
    assert (order.status, order.error_status_code, order.error_reason) == ("ERROR", "400", "r" * 255)


@pytest_twisted.ensureDeferred
async def test_another_project_does_not_see_or_claim_an_order(orders: OrderRepo) -> None:
    order_id = await new_order(orders)
    assert await orders.get(order_id, "q") is None
    with pytest.raises(NotFound):
        await orders.claim(order_id, "q", 30)
    with pytest.raises(NotFound):
        await orders.delete(order_id, "q")


@pytest_twisted.ensureDeferred
async def test_undone_tasks_become_due_and_then_ever_later(orders: OrderRepo, clock: Clock) -> None:
    order_id = await new_order(orders, retry_after=5)
    assert await orders.take_due(10, 60) == []
    clock.advance(5)
    assert [task.order_id for task in await orders.take_due(10, 60)] == [order_id]
    assert await orders.take_due(10, 60) == []
    clock.advance(60)
    assert len(await orders.take_due(10, 60)) == 1
    clock.advance(60)
    assert await orders.take_due(10, 60) == []
    clock.advance(5)
    (task,) = await orders.take_due(10, 60)
    assert task.method == "process_type_order" and task.kwargs["order_id"] == order_id


@pytest_twisted.ensureDeferred
async def test_due_tasks_go_to_one_of_many_who_ask(orders: OrderRepo, clock: Clock) -> None:
    made = [await new_order(orders, retry_after=0) for _ in range(30)]
    clock.advance(1)
    taken = [
        task.order_id for tasks in await gatherResults([orders.take_due(5, 60) for _ in range(12)]) for task in tasks
    ]
    while more := await orders.take_due(5, 60):
        taken += [task.order_id for task in more]
    assert sorted(taken) == sorted(made)


@pytest_twisted.ensureDeferred
async def test_a_retried_order_can_be_claimed_again_when_it_is_due(orders: OrderRepo, clock: Clock) -> None:
    order_id = await new_order(orders)
    await orders.retry(await orders.claim(order_id, "p", 30), "process_type_order", 7)
    clock.advance(7)
    assert len(await orders.take_due(10, 60)) == 1
    assert (await orders.claim(order_id, "p", 30)).attempt == 2


@pytest.mark.parametrize(
    ("meta", "found"),
    [
        ("two words", 1),
        ("two", 0),
        ("algorithm", 1),
        ("AES", 1),
        ('q"uote', 1),
        ("back\\slash", 1),
        ("n_me", 1),
        ("é", 1),
        ("256", 0),
    ],
)
@pytest_twisted.ensureDeferred
async def test_meta_finds_whole_keys_and_values(orders: OrderRepo, meta: str, found: int) -> None:
    await new_order(
        orders,
        meta='{"algorithm": "aes", "bit_length": 256, "name": "two words", "x": "q\\"uote", '
        '"y": "back\\\\slash", "z": "é"}',
    )
    assert (await orders.list_page("p", meta, 10, 0)).total == found


@pytest_twisted.ensureDeferred
async def test_a_clock_that_is_set_back_holds_nothing_up(orders: OrderRepo, clock: Clock) -> None:
    untouched, held = await new_order(orders), await new_order(orders)
    first = await orders.claim(held, "p", 30)
    clock.rightNow -= 3600
    assert {task.order_id for task in await orders.take_due(10, 60)} == {untouched, held}
    second = await orders.claim(held, "p", 30)
    assert second is not None and await orders.claim(held, "p", 30) is None
    with pytest.raises(LeaseLost):
        await orders.renew(first, 30)
    await orders.renew(second, 30)


@pytest_twisted.ensureDeferred
async def test_an_order_that_is_released_is_due_at_once_and_has_lost_no_attempt(
    orders: OrderRepo, clock: Clock
) -> None:
    order_id = await new_order(orders)
    lease = await orders.claim(order_id, "p", 30)
    await orders.release(lease)
    assert [task.order_id for task in await orders.take_due(10, 60)] == [order_id]
    again = await orders.claim(order_id, "p", 30)
    assert (lease.attempt, again.attempt) == (1, 1)
    await orders.release(lease)
    await orders.renew(again, 30)


@pytest_twisted.ensureDeferred
async def test_a_creation_looks_its_project_up_at_most_once(database: Database, clock: Clock) -> None:
    secrets, containers, orders = (
        SecretRepo(database, clock),
        ContainerRepo(database, clock, -1),
        OrderRepo(database, clock),
    )
    member = new_secret()
    await secrets.create(member)
    lookups: list[str] = []

    def record(connection, cursor, statement: str, *_: object) -> None:
        if statement.startswith("SELECT") and ("FROM projects" in statement or "JOIN projects" in statement):
            lookups.append(statement)

    event.listen(database.engine, "before_cursor_execute", record)

    async def count(creation) -> int:
        lookups.clear()
        await creation
        return len(lookups)

    kek = await payload(database, clock)
    assert await count(secrets.create(new_secret(payload=kek))) <= 1
    container = NewContainer(str(uuid.uuid4()), "p", "generic", entries=(Entry(None, member.id),))
    assert await count(containers.create(container)) <= 1
    assert await count(new_order(orders)) <= 1
    lease = await orders.claim(await new_order(orders), "p", 30)
    made = GeneratedObjects(tuple(new_secret() for _ in range(3)), NewContainer(str(uuid.uuid4()), "p", "rsa"))
    assert await count(orders.complete(lease, made, "", "")) <= 1
