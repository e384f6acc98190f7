"""Lookups and creations that concurrent callers share in threads: on each database, without pipelines."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from sqlalchemy import event, select
from twisted.internet.defer import Deferred, DeferredList, gatherResults

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.errors import BadRequest, ProjectClosed, QuotaReached
from barbtx.model.database import Database
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.database_time import database_time
from barbtx.model.models import OrderRetryTask, Project, Secret
from barbtx.model.records import EncryptedDatum, KEKMeta, NewSecret, StoredPayload, Task
from barbtx.model.repositories.acls import AclRepo
from barbtx.model.repositories.keks import KEKGone, KEKRepo
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.pending_removals import PendingRemovalRepo
from barbtx.model.repositories.quotas import QuotaRepo
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER
from barbtx.times import WallClock
from tests.conftest import unique
from tests.support.servers import MariaDB


class World:
    """Repositories on a database, and the statements that it executes."""

    def __init__(self, url: str) -> None:
        from twisted.internet import reactor

        assert manage(["db", "upgrade", "-d", url]) == 0
        options = {"connection": url, "pipelines": False, "timeout_seconds": 10}
        self.database = Database.from_config(
            reactor, load([], [f"database.{name}={value}" for name, value in options.items()])
        )
        self.database.start()
        clock = WallClock()
        self.secrets = SecretRepo(self.database, clock)
        self.orders = OrderRepo(self.database, clock, task_time=database_time)
        self.quotas = QuotaRepo(self.database, clock, {})
        self.keks = KEKRepo(self.database, clock)
        self.statements: list[str] = []
        event.listen(self.database.engine, "before_cursor_execute", lambda *given: self.statements.append(given[2]))

    async def stored(self, column: Any = Secret.id) -> set[Any]:
        return await self.database.interact(lambda session: set(session.scalars(select(column))), write=False)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = World(database_url)
    yield world
    world.database.stop()


def new(number: int, project: str = "p", **fields: Any) -> NewSecret:
    return NewSecret(f"{number:08}-0000-4000-9000-000000000000", project, **fields)


async def outcomes(deferreds: list[Deferred[Any]]) -> list[Any]:
    """The results, or the exceptions."""
    found = await DeferredList(deferreds, consumeErrors=True)
    return [getattr(result, "value", result) for _, result in found]


def kek() -> KEKMeta:
    return KEKMeta(str(uuid.uuid4()), "plugin", "label", "aes", 256, "gcm", "wrapped")


@pytest_twisted.ensureDeferred
async def test_concurrent_lookups_share_a_statement_and_each_has_its_own_row(world: World) -> None:
    names = ["plain", "quote \" \\ and ' apostrophe", "\N{KEY}\N{LATIN SMALL LETTER E WITH ACUTE}", "%(x)s :x ?"]
    await gatherResults([world.secrets.create(new(number, name=name)) for number, name in enumerate(names)])
    world.statements.clear()
    found = await gatherResults([world.secrets.get(new(number).id) for number in (3, 0, 9, 2, 1, 0)])
    assert [secret and secret.name for secret in found] == [names[3], names[0], None, names[2], names[1], names[0]]
    assert sum("FROM secrets" in statement for statement in world.statements) == 1


@pytest.mark.parametrize("user", ["u", "\N{KEY}", "a\0b", 'a"b\\', "null", ""])
@pytest_twisted.ensureDeferred
async def test_access_is_that_of_the_user_who_asks(world: World, user: str) -> None:
    await world.secrets.create(new(1))
    await AclRepo(world.database, WallClock(), Secret).replace(new(1).id, False, [user])
    found = await gatherResults(
        [world.secrets.get(new(1).id, caller) for caller in (user, "other", None, user.upper())]
    )
    expected = [True, False, False, user.upper() == user]
    assert [secret.access.listed for secret in found if secret] == expected


@pytest_twisted.ensureDeferred
async def test_a_key_that_no_database_accepts_fails_alone(world: World) -> None:
    await world.secrets.create(new(1))
    found = await outcomes([world.secrets.get(new(1).id), world.secrets.get(new(1).id, "\ud800")])
    assert found[0].id == new(1).id and isinstance(found[1], BadRequest)


@pytest_twisted.ensureDeferred
async def test_payloads_of_any_size_are_stored_and_found(world: World) -> None:
    key = await world.keks.add_active("p", kek())
    sizes = [0, 1, 65_536, 1_000_000, 3, 2_000_000, 70_000]
    payloads = [
        StoredPayload("store", "text/plain", {"n": str(size)}, EncryptedDatum(key, os.urandom(size))) for size in sizes
    ]
    await gatherResults([world.secrets.create(new(n, payload=payload)) for n, payload in enumerate(payloads)])
    found = await gatherResults([world.secrets.get(new(n).id, with_payload=True) for n in range(len(sizes))])
    assert [secret.payload.datum.cypher_text for secret in found if secret] == [p.datum.cypher_text for p in payloads]


@pytest_twisted.ensureDeferred
async def test_concurrent_creations_share_statements(world: World) -> None:
    key = await world.keks.add_active("p", kek())
    payload = StoredPayload("store", "text/plain", {}, EncryptedDatum(key, b"x"))
    world.statements.clear()
    await gatherResults([world.secrets.create(new(number, payload=payload)) for number in range(20)])
    assert sum(statement.startswith("INSERT INTO secrets") for statement in world.statements) == 1
    assert await world.stored() == {new(number).id for number in range(20)}


@pytest_twisted.ensureDeferred
async def test_of_creations_that_share_a_transaction_one_that_fails_takes_no_other_with_it(world: World) -> None:
    await world.secrets.create(new(99))
    gone = StoredPayload("store", "text/plain", {}, EncryptedDatum(kek(), b"x"))
    bad = {7: {"mode": "\ud800"}, 9: {"payload": gone}}
    creations = [world.secrets.create(new(number, **bad.get(number, {}))) for number in range(20)]
    creations.append(world.secrets.create(new(5)))
    found = await outcomes(creations)
    assert isinstance(found[7], BadRequest) and isinstance(found[9], KEKGone)
    # Of two creations with one id, one fails.
    assert [found[5], found[20]].count(None) == 1 and found.count(None) == 18
    assert await world.stored() == {new(number).id for number in (*range(20), 99) if number not in bad}


@pytest_twisted.ensureDeferred
async def test_projects_that_are_new_limited_or_closed_are_not_confused_with_others(world: World) -> None:
    await world.secrets.create(new(90, "open"))
    await world.quotas.merge("limited", {"secrets": 2})
    await world.secrets.create(new(91, "closed"))
    removals = PendingRemovalRepo(world.database, WallClock(), 30, 5, 3600, 10)
    await removals.request("closed")
    await removals.confirm(await removals.claim(), 3600)
    projects = ["open", "limited", "closed", "new"] * 4
    found = await outcomes([world.secrets.create(new(number, project)) for number, project in enumerate(projects)])
    kinds = {project: [type(o) for o, of in zip(found, projects, strict=True) if of == project] for project in projects}
    assert kinds["open"] == kinds["new"] == [type(None)] * 4
    assert sorted(kinds["limited"], key=str) == sorted([type(None)] * 2 + [QuotaReached] * 2, key=str)
    assert kinds["closed"] == [ProjectClosed] * 4


def task(order_id: str) -> Task:
    return Task(order_id, PROCESS_TYPE_ORDER, {"request_id": "r"})


@pytest_twisted.ensureDeferred
async def test_concurrent_orders_have_their_tasks(world: World) -> None:
    await world.secrets.create(new(1))
    ids = [str(uuid.uuid4()) for _ in range(10)]
    world.statements.clear()
    await gatherResults(
        [
            world.orders.create(
                order_id,
                "p",
                "key",
                json.dumps({"n": order_id}),
                "u",
                Task(order_id, PROCESS_TYPE_ORDER, {"a": "b"}),
                60,
            )
            for order_id in ids
        ]
    )
    assert sum(statement.startswith("INSERT INTO orders") for statement in world.statements) == 1
    assert await world.stored(OrderRetryTask.order_id) == set(ids)
    orders = await gatherResults([world.orders.get(order_id, "p") for order_id in ids])
    assert [(order.id, json.loads(order.meta), order.status) for order in orders if order] == [
        (order_id, {"n": order_id}, "PENDING") for order_id in ids
    ]
    assert await world.orders.get(ids[0], "other") is None
    lease = await world.orders.claim(ids[0], "p", 30)
    assert lease and lease.order.id == ids[0] and lease.attempt == 1


@pytest_twisted.ensureDeferred
async def test_a_project_that_is_locked_holds_up_only_its_own_creations(mariadb: MariaDB) -> None:
    name = unique()
    world = World(mariadb.new_database(name))
    await gatherResults([world.secrets.create(new(90 + n, project)) for n, project in enumerate(("slow", "other"))])
    locker = mariadb._connect()
    locker.select_db(name)
    cursor = locker.cursor()
    cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    cursor.execute("BEGIN")
    cursor.execute("SELECT id FROM projects WHERE external_id = 'slow' FOR UPDATE")
    stuck = [world.secrets.create(new(number, "slow")) for number in range(5)]
    await gatherResults([world.secrets.create(new(10 + number, "other")) for number in range(5)])
    assert not any(creation.called for creation in stuck)
    cursor.execute("COMMIT")
    locker.close()
    await gatherResults(stuck)
    assert len(await world.stored()) == 12
    world.database.stop()


@pytest_twisted.ensureDeferred
async def test_a_lookup_that_the_database_cannot_do_is_unavailable_until_it_can(world: World) -> None:
    await world.secrets.create(new(1))

    def rename(old: str, new: str) -> None:
        with world.database.engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

    rename("acls", "elsewhere")
    found = await outcomes([world.secrets.get(new(number).id) for number in range(3)])
    assert all(isinstance(problem, DatabaseUnavailable) and "acls" in problem.cause for problem in found)
    rename("elsewhere", "acls")
    assert (await world.secrets.get(new(1).id)).id == new(1).id


@pytest_twisted.ensureDeferred
async def test_closing_the_gate_refuses_lookups_and_creations(world: World) -> None:
    world.database.gate.close()
    found = await outcomes([world.secrets.get(new(1).id), world.secrets.create(new(1))])
    assert all(isinstance(problem, DatabaseUnavailable) for problem in found)
    world.database.gate.open()
    assert await world.stored(Project.id) == set()
    await world.secrets.create(attrs.evolve(new(1), name="x"))
