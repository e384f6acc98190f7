"""Transactions that look before they write, while others write the same."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import pytest_twisted
from alembic import command
from sqlalchemy import Connection, event, func, select, text
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from barbtx.cmd.manage import main as manage
from barbtx.errors import ConfigurationError, Conflict, NotFound
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.engine import make_engine
from barbtx.model.migration.upgrade import alembic_config
from barbtx.model.records import Created, Entry, KEKMeta, NewContainer, NewSecret
from barbtx.model.repositories.acls import AclRepo
from barbtx.model.repositories.consumers import SECRET_CONSUMERS, ConsumerRepo
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.idempotency import DuplicateKey, IdempotencyRecord, StoredRequest
from barbtx.model.repositories.keks import KEKRepo
from barbtx.model.repositories.quotas import QuotaRepo
from barbtx.model.repositories.secret_stores import ConfiguredStore, SecretStoreRepo
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.model.repositories.transport_keys import TransportKeyRepo
from barbtx.model.repositories.user_metadata import UserMetadataRepo

STORES = [
    ConfiguredStore("store_crypto", "simple_crypto", True, "software"),
    ConfiguredStore("vault", None, False, "vault"),
    ConfiguredStore("store_crypto", None, False, "other"),
]
MANY = 4


class Rendezvous:
    """Makes transactions wait for each other before the first row that each inserts, so that all have looked."""

    def __init__(self, database: Database) -> None:
        self._engine, self._barrier = database.engine, threading.Barrier(MANY)
        self._arrived: set[int] = set()

    def __enter__(self) -> Rendezvous:
        event.listen(self._engine, "before_cursor_execute", self._before)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "before_cursor_execute", self._before)

    def _before(self, connection: Connection, cursor: Any, statement: str, *_: object) -> None:
        thread = threading.get_ident()
        if statement.startswith("INSERT") and thread not in self._arrived:
            self._arrived.add(thread)
            # Where a lock keeps the others from coming so far, nobody comes.
            with contextlib.suppress(threading.BrokenBarrierError):
                self._barrier.wait(1)


@attrs.frozen
class World:
    """What the operations work on: a secret and a container of project p."""

    database: Database
    clock: Clock
    secret: str
    container: str


@attrs.frozen
class Race:
    """An operation of which several are begun at the same time.

    :ivar of: makes the operation.
    :ivar model: where it leaves rows; ``rows`` is how many.
    :ivar losers: what all but one raise, if they do.
    """

    name: str
    of: Callable[[World], Callable[[], Awaitable[Any]]]
    model: type
    rows: int = 1
    losers: type[Exception] | None = None


def _add_kek(world: World) -> Any:
    return KEKRepo(world.database, world.clock).add_active(
        "new", KEKMeta(str(uuid.uuid4()), "plugin", "label", "aes", 256, "gcm", "wrapped")
    )


def _add_link(world: World) -> Callable[[], Any]:
    repo = ContainerRepo(world.database, world.clock, -1)

    async def add() -> None:
        await repo.add_secret(await repo.get(world.container, None), "p", Entry(None, world.secret))

    return lambda: Deferred.fromCoroutine(add())


def _create_under_key(world: World) -> Any:
    secret = NewSecret(str(uuid.uuid4()), "p")
    use = IdempotencyRecord("d" * 64, StoredRequest("f", Created("secrets", secret.id)), 60, 10)
    return SecretRepo(world.database, world.clock).create(secret, use)


RACES = [
    Race(
        "projects",
        lambda w: lambda: SecretRepo(w.database, w.clock).create(NewSecret(str(uuid.uuid4()), "new")),
        models.Project,
        2,
    ),
    Race("project keys", lambda w: lambda: _add_kek(w), models.KEK),
    Race(
        "secret stores",
        lambda w: lambda: SecretStoreRepo(w.database, w.clock).sync(STORES),
        models.SecretStore,
        len(STORES),
    ),
    Race(
        "transport keys",
        lambda w: lambda: TransportKeyRepo(w.database, w.clock).publish("plugin" * 99, "key" * 999),
        models.TransportKey,
    ),
    Race(
        "quotas", lambda w: lambda: QuotaRepo(w.database, w.clock, {}).merge("new", {"secrets": 1}), models.ProjectQuota
    ),
    Race(
        "ACLs",
        lambda w: lambda: AclRepo(w.database, w.clock, models.Secret).replace(w.secret, False, ["u", "v"]),
        models.AclUser,
        2,
    ),
    Race(
        "metadata",
        lambda w: lambda: UserMetadataRepo(w.database, w.clock).add(w.secret, "k", "v"),
        models.SecretUserMetadatum,
        1,
        Conflict,
    ),
    Race(
        "consumers",
        lambda w: (
            lambda: ConsumerRepo(w.database, w.clock, SECRET_CONSUMERS, -1).add(
                w.secret, "new", {"service": "s", "resource_type": "t", "resource_id": "r"}
            )
        ),
        models.SecretConsumer,
    ),
    Race("container secrets", _add_link, models.ContainerSecret, 1, Conflict),
    Race("idempotency keys", lambda w: lambda: _create_under_key(w), models.IdempotencyKey, 1, DuplicateKey),
]


@pytest.fixture
def secrets(database: Database, clock: Clock) -> SecretRepo:
    return SecretRepo(database, clock)


async def world_of(database: Database, clock: Clock) -> World:
    secret, container = str(uuid.uuid4()), str(uuid.uuid4())
    await SecretRepo(database, clock).create(NewSecret(secret, "p"))
    await ContainerRepo(database, clock, -1).create(NewContainer(container, "p", "generic"))
    return World(database, clock, secret, container)


@pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize("race", RACES, ids=lambda race: race.name)
@pytest_twisted.ensureDeferred
async def test_of_those_who_write_the_same_at_once_none_makes_it_twice(
    database: Database, clock: Clock, race: Race
) -> None:
    world = await world_of(database, clock)
    operation = race.of(world)
    failed: list[type[Exception]] = []
    with Rendezvous(database):
        await gatherResults([operation().addErrback(lambda failure: failed.append(failure.type)) for _ in range(MANY)])
    assert failed == ([race.losers] * (MANY - 1) if race.losers else [])
    assert await count(database, race.model) == race.rows
    # And nobody is in the way of who comes later.
    await operation().addErrback(lambda failure: failure.trap(*([race.losers] if race.losers else [])))
    assert await count(database, race.model) == race.rows


def count(database: Database, model: type) -> Deferred[int]:
    return database.interact(lambda session: session.scalar(select(func.count()).select_from(model)))


@pytest_twisted.ensureDeferred
async def test_a_store_has_one_published_key_and_one_of_an_administrator_serves(
    database: Database, clock: Clock
) -> None:
    repo = TransportKeyRepo(database, clock)
    added = await repo.create("plugin", "key")
    clock.advance(1)
    again = await repo.create("plugin", "key")
    assert again != added
    ids = await gatherResults([repo.publish("plugin", "key") for _ in range(8)])
    assert set(ids) == {added}
    other = await repo.publish("plugin", "key2")
    assert other == await repo.publish("plugin", "key2") not in (added, again)
    await repo.delete(added)
    assert await repo.publish("plugin", "key") == again
    assert (await repo.list_page("plugin", 10, 0)).total == 2


@pytest_twisted.ensureDeferred
async def test_a_store_that_is_gone_cannot_be_preferred(database: Database, clock: Clock) -> None:
    with pytest.raises(NotFound):
        await SecretStoreRepo(database, clock).prefer("p", str(uuid.uuid4()))


@pytest_twisted.ensureDeferred
async def test_sync_makes_one_of_rows_that_mean_the_same(database: Database, clock: Clock) -> None:
    repo = SecretStoreRepo(database, clock)
    await repo.sync(STORES)
    (vault,) = [store for store in await repo.list_all() if store.store_plugin == "vault"]
    other = str(uuid.uuid4())

    def duplicate(session: Any) -> None:
        # As other programs write it: null is no other value to a unique index.
        session.execute(
            models.SecretStore.__table__.insert().values(
                id=other,
                store_plugin="vault",
                crypto_plugin=None,
                global_default=False,
                name="vault",
                status="ACTIVE",
                created_at=vault.created,
                updated_at=vault.updated,
            )
        )

    await database.interact(duplicate)
    await repo.prefer("one", vault.id)
    for project in ("two", "three"):
        await repo.prefer(project, other)
    await repo.sync(STORES)
    assert [store.id for store in await repo.list_all() if store.store_plugin == "vault"] == [other]
    for project in ("one", "two", "three"):
        assert (await repo.preferred(project)).id == other
    with pytest.raises(ConfigurationError, match="vault/None"):
        await repo.sync(STORES[:1])


@pytest.fixture
def old_database_url(database_url: str) -> str:
    """A database of the release before, with rows that raced."""
    command.upgrade(alembic_config(database_url), "0003")
    engine = make_engine(database_url, 1, 10)
    with engine.connect() as connection:
        connection = connection.execution_options(barbtx_write=True)
        for project in ("1", "2", "3"):
            connection.execute(text("INSERT INTO projects VALUES (:id, :id, '2026-01-01')"), {"id": project})
        for store_id, plugin, crypto, created in (
            ("a", "store_crypto", "simple_crypto", "2026-01-01"),
            ("b", "store_crypto", "simple_crypto", "2026-01-02"),
            ("c", "vault", None, "2026-01-01"),
            ("d", "vault", None, "2026-01-02"),
            ("e", "vault", None, "2026-01-03"),
        ):
            connection.execute(
                text(
                    "INSERT INTO secret_stores (id, store_plugin, crypto_plugin, global_default, name, status, "
                    "created_at, updated_at) VALUES (:id, :plugin, :crypto, :default, 'n', 'ACTIVE', :t, :t)"
                ),
                {"id": store_id, "plugin": plugin, "crypto": crypto, "default": plugin != "vault", "t": created},
            )
        for project, store in (("1", "c"), ("2", "d"), ("3", "d")):
            connection.execute(
                text("INSERT INTO project_secret_store VALUES (:project, :store)"), {"project": project, "store": store}
            )
        for key_id, created in (("x", "2026-01-02"), ("y", "2026-01-01")):
            connection.execute(
                text(
                    "INSERT INTO transport_keys (id, plugin_name, transport_key, status, created_at, updated_at) "
                    "VALUES (:id, 'plugin', 'key', 'ACTIVE', :t, :t)"
                ),
                {"id": key_id, "t": created},
            )
        connection.commit()
    engine.dispose()
    return database_url


@pytest_twisted.ensureDeferred
async def test_the_migration_heals_what_raced_before_it_forbids_it(old_database_url: str, clock: Clock) -> None:
    from twisted.internet import reactor

    from barbtx.config import load

    assert manage(["db", "upgrade", "-d", old_database_url]) == 0
    database = Database.from_config(
        reactor, load([], [f"database.connection={old_database_url}", "database.timeout_seconds=10"])
    )
    database.start()
    try:
        repo = SecretStoreRepo(database, clock)
        assert {(store.id, store.crypto_plugin) for store in await repo.list_all()} == {
            ("a", "simple_crypto"),
            ("d", None),
        }
        assert {(await repo.preferred(project)).id for project in ("1", "2", "3")} == {"d"}
        await repo.sync(STORES)
        assert {store.id for store in await repo.list_all()} >= {"a", "d"} and len(await repo.list_all()) == 3
        keys = TransportKeyRepo(database, clock)
        assert await keys.publish("plugin", "key") == "y"
        assert (await keys.get("x")).transport_key == "key"
    finally:
        database.stop()
