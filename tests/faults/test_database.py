"""Databases that are there and do not do what they are asked: read-only, damaged, with rights or tables taken away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.model.database import Database
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.repositories.quotas import QuotaRepo
from barbtx.times import WallClock
from tests.support.cluster import pause
from tests.support.servers import MariaDB, PostgreSQL, Server
from tests.support.service import Api, Deployment, Reply


class Administrator:
    """Does to a server what its administrator may do."""

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database

    def run(self, *statements: str) -> None:
        with self.server._connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


class OfPostgreSQL(Administrator):
    def read_only(self, value: bool) -> None:
        setting = "on" if value else "off"
        self.run(f"ALTER SYSTEM SET default_transaction_read_only = {setting}", "SELECT pg_reload_conf()")

    def rename(self, old: str, new: str) -> None:
        with psycopg.connect(
            host="127.0.0.1", port=self.server.port, user="postgres", dbname=self.database, autocommit=True
        ) as connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")


class OfMariaDB(Administrator):
    def read_only(self, value: bool) -> None:
        self.run(f"SET GLOBAL read_only = {int(value)}")

    def rename(self, old: str, new: str) -> None:
        self.run(f"RENAME TABLE `{self.database}`.{old} TO `{self.database}`.{new}")


@pytest.fixture(
    params=[(PostgreSQL, OfPostgreSQL), (MariaDB, OfMariaDB)], ids=["postgresql", "mariadb"], scope="module"
)
def kind(request: pytest.FixtureRequest) -> Iterator[tuple[Server, type[Administrator]]]:
    """A server of each kind for these tests to mistreat."""
    server, administrator = request.param[0](), request.param[1]
    server.start()
    yield server, administrator
    server.stop()


@pytest.fixture
def administrator(kind: tuple[Server, type[Administrator]], name: str) -> Administrator:
    return kind[1](kind[0], name)


@pytest.fixture
def api(administrator: Administrator, tmp_path: Path) -> Iterator[Api]:
    deployment = Deployment(tmp_path, administrator.server.new_database(administrator.database))
    yield deployment.api()
    deployment.stop()


def writes(api: Api, ref: str, order_ref: str) -> list[Callable[[], Awaitable[Reply]]]:
    """One request of each kind that writes."""
    return [
        lambda: api.post("/v1/secrets", {"payload": "x", "payload_content_type": "text/plain"}),
        lambda: api.post("/v1/secrets", {"name": "x"}),
        lambda: api.post("/v1/containers", {"type": "generic"}),
        lambda: api.post("/v1/orders", {"type": "key", "meta": {"algorithm": "aes", "bit_length": 256}}),
        lambda: api.request("PUT", f"{ref}/metadata", json={"metadata": {"a": "b"}}),
        lambda: api.request("PUT", f"{ref}/acl", json={"read": {"users": ["u"]}}),
        lambda: api.delete(ref),
        lambda: api.delete(order_ref),
    ]


@pytest_twisted.ensureDeferred
async def test_a_read_only_server_is_unavailable_for_writes_and_not_for_reads(
    administrator: Administrator, api: Api
) -> None:
    ref, order_ref = await api.store("kept"), await api.order()
    await api.finished(order_ref)
    administrator.read_only(True)
    try:
        for _ in range(3):
            replies = await gatherResults([Deferred.fromCoroutine(write()) for write in writes(api, ref, order_ref)])
            assert [reply.status for reply in replies] == [503] * len(replies), replies
            assert all(int(reply.headers["retry-after"]) > 0 for reply in replies)
            assert (await api.get(f"{ref}/payload")).content == b"kept"
    finally:
        administrator.read_only(False)
    # The very next request finds that the server takes writes again; nothing of what was refused was done.
    assert (await api.post("/v1/secrets", {"name": "after"})).status == 201
    assert (await api.get("/v1/secrets")).json["total"] == 3
    assert (await api.get(order_ref)).status == 200
    log = api.process.read_log()
    assert "read-only" in log and "Traceback" not in log


@pytest_twisted.ensureDeferred
async def test_what_an_administrator_took_away_is_missed_until_it_is_back(
    administrator: Administrator, api: Api
) -> None:
    ref = await api.store("kept")
    administrator.rename("orders", "elsewhere")
    for request in (
        lambda: api.get("/v1/orders"),
        lambda: api.post("/v1/orders", {"type": "key", "meta": {"algorithm": "aes", "bit_length": 256}}),
    ):
        reply = await request()
        assert reply.status == 503 and reply.headers["retry-after"], reply
    assert (await api.get(f"{ref}/payload")).content == b"kept"
    administrator.rename("elsewhere", "orders")
    assert (await api.finished(await api.order()))["status"] == "ACTIVE"
    log = api.process.read_log()
    assert "orders" in log and "Traceback" not in log


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: f"sqlite:///{path}.none/barbtx.sqlite",
        lambda path: f"sqlite:///file:{path}?mode=ro&uri=true",
        lambda path: path.write_bytes(b"this is no database" * 4096) and f"sqlite:///{path}",
        lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192) and f"sqlite:///{path}",
        lambda path: path.write_bytes(b"") or f"sqlite:///{path}",
    ],
    ids=["missing", "read-only", "foreign", "damaged", "emptied"],
)
@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_used_is_unavailable(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    from twisted.internet import reactor

    path = tmp_path / "barbtx.sqlite"
    assert manage(["db", "upgrade", "-d", f"sqlite:///{path}"]) == 0
    database = Database.from_config(reactor, load([], [f"database.connection={damage(path)}"]))
    database.start()
    try:
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable) as caught:
                await QuotaRepo(database, WallClock(), {}).merge("p", {"secrets": 1})
            assert not caught.value.outcome_unknown and "SQLITE_" in caught.value.debug["cause"]
    finally:
        database.stop()


@pytest.mark.parametrize("first", ["write", "read"])
@pytest_twisted.ensureDeferred
async def test_after_a_failover_the_new_primary_is_found(tmp_path: Path, first: str) -> None:
    # Two servers that share no data stand for a primary and its standby: what counts is which of them is asked.
    primary, standby = PostgreSQL(), PostgreSQL()
    try:
        for server in (primary, standby):
            server.start()
            manage(["db", "upgrade", "-d", server.new_database("barbtx")])
        first_url = f"postgresql://postgres@127.0.0.1:{primary.port}/barbtx"
        deployment = Deployment(
            tmp_path,
            first_url,
            **{
                "database.connection": (
                    f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/barbtx"
                    "?target_session_attrs=read-write"
                )
            },
        )
        try:
            api = deployment.api()
            refs = [await api.store(str(n)) for n in range(3)]
            OfPostgreSQL(primary, "barbtx").read_only(True)
            if first == "write":
                assert (await api.post("/v1/secrets", {"name": "after"})).status == 201
                assert {(await api.get(ref)).status for ref in refs} == {404}
            else:
                while (await api.get(refs[0])).status != 404:
                    await pause(0.1)
        finally:
            deployment.stop()
    finally:
        primary.stop()
        standby.stop()


class Locks:
    """Keeps a table, or a project's row, from everybody else."""

    def __init__(self, administrator: Administrator) -> None:
        self._administrator = administrator
        server = administrator.server
        if isinstance(administrator, OfPostgreSQL):
            self._connection = psycopg.connect(
                host="127.0.0.1", port=server.port, user="postgres", dbname=administrator.database
            )
            self._statements = {
                "read": "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
                "write": "LOCK TABLE {} IN SHARE MODE",
            }
        else:
            self._connection = server._connect()
            self._connection.select_db(administrator.database)
            self._statements = {"read": "LOCK TABLES {} WRITE", "write": "LOCK TABLES {} READ"}

    def __enter__(self) -> Locks:
        return self

    def hold(self, table: str, against: str) -> None:
        self._connection.cursor().execute(self._statements[against].format(table))

    def hold_project(self, project: str) -> None:
        cursor = self._connection.cursor()
        if isinstance(self._administrator, OfMariaDB):
            # Its default isolation locks every row that it looks at.
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("BEGIN")
        cursor.execute(f"SELECT id FROM projects WHERE external_id = '{project}' FOR UPDATE")

    def __exit__(self, *_: object) -> None:
        self._connection.close()


LOCKED = {
    "orders against reads, while they are placed": (
        "orders",
        "read",
        [lambda api, ref: api.post("/v1/orders", {"type": "key", "meta": {"algorithm": "aes", "bit_length": 256}})],
    ),
    "orders against reads, while they are read and placed": (
        "orders",
        "read",
        [
            lambda api, ref: api.get("/v1/orders"),
            lambda api, ref: api.get(f"/v1/orders/{UUID}"),
            lambda api, ref: api.post("/v1/orders", {"type": "key", "meta": {"algorithm": "aes", "bit_length": 256}}),
        ],
    ),
    "containers against reads": (
        "containers",
        "read",
        [
            lambda api, ref: api.get(f"/v1/containers/{UUID}"),
            lambda api, ref: api.get("/v1/containers"),
            lambda api, ref: api.post("/v1/containers", {"type": "generic"}),
        ],
    ),
    "secrets against writes": (
        "secrets",
        "write",
        [lambda api, ref: api.post("/v1/secrets", {"name": "x"}), lambda api, ref: api.delete(ref)],
    ),
    "consumers against reads": (
        "secret_consumer_metadata",
        "read",
        [lambda api, ref: api.get(f"{ref}/consumers"), lambda api, ref: api.get(ref, headers=NEWEST)],
    ),
}
UUID = "d4d0e5ae-3f7b-4c62-a5a2-0a5e1d3f8a01"
NEWEST = {"OpenStack-API-Version": "key-manager 1.1"}


@pytest.mark.parametrize("locked", LOCKED)
@pytest_twisted.ensureDeferred
async def test_a_locked_table_leaves_reads_of_others_alone(administrator: Administrator, api: Api, locked: str) -> None:
    table, against, requests = LOCKED[locked]
    ref = await api.store("kept")
    with Locks(administrator) as locks:
        locks.hold(table, against)
        stuck = [
            Deferred.fromCoroutine(request(api.of(f"p{number % 3}"), ref))
            for number in range(36)
            for request in (requests[number % len(requests)],)
        ]
        replies = [await api.get(f"{ref}/payload") for _ in range(20)]
        assert [reply.status for reply in replies] == [200] * 20
        assert (await api.get("/healthcheck")).status == 200
        assert {reply.status for reply in await gatherResults(stuck)} <= {503, 403, 404}
    assert (await api.post("/v1/secrets", {"name": "after"})).status == 201


@pytest_twisted.ensureDeferred
async def test_a_project_that_is_held_up_leaves_others_alone(administrator: Administrator, api: Api) -> None:
    slow, other = api.of("slow"), api.of("other")
    await gatherResults([Deferred.fromCoroutine(project.store()) for project in (slow, other)])
    await slow.request(
        "PUT", "/v1/project-quotas/slow", json={"project_quotas": {"secrets": 500}}, roles="key-manager:service-admin"
    )
    with Locks(administrator) as locks:
        locks.hold_project("slow")
        stuck = [Deferred.fromCoroutine(slow.post("/v1/secrets", {"name": "x"})) for _ in range(24)]
        refs = [await other.store(str(number)) for number in range(10)]
        assert len(refs) == 10
        assert {reply.status for reply in await gatherResults(stuck)} == {503}
    assert (await slow.post("/v1/secrets", {"name": "after"})).status == 201
