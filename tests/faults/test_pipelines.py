"""What befalls the connections through which PostgreSQL's rows are looked up, and the requests in flight on them."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import threading
import uuid
from collections.abc import Awaitable, Iterator
from typing import Any

import attrs
import psycopg
import pytest
import pytest_twisted
from sqlalchemy import event, literal, select
from twisted.internet.defer import Deferred, DeferredList, fail, gatherResults

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.errors import BadRequest, NotFound, ProjectClosed, QuotaReached
from barbtx.model.compiled import CompiledStatement
from barbtx.model.database import Database
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.database_time import database_time
from barbtx.model.pipeline import Execution, Pipeline, PipelineLost
from barbtx.model.records import (
    SYMMETRIC,
    EncryptedDatum,
    GeneratedObjects,
    KEKMeta,
    Lease,
    NewSecret,
    Secret,
    StoredPayload,
    Task,
    lane_of,
)
from barbtx.model.repositories.claim_statement import claim_statement, claim_values
from barbtx.model.repositories.keks import KEKRepo
from barbtx.model.repositories.orders import Claim, LeaseLost, OrderRepo, WrongLane
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER
from barbtx.times import WallClock
from tests.conftest import unique
from tests.support.cluster import pause
from tests.support.servers import PostgreSQL

_IDS = [f"{number:08}-0000-4000-8000-000000000000" for number in range(40)]


class World:
    """Repositories on a database of their own, and what an administrator can do to it."""

    def __init__(self, server: PostgreSQL, **options: object) -> None:
        from twisted.internet import reactor

        self.server, self.name = server, unique()
        url = server.new_database(self.name)
        assert manage(["db", "upgrade", "-d", url]) == 0
        settings = {"connection": url, "pipelines": True, **options}
        self.database = Database.from_config(
            reactor, load([], [f"database.{name}={value}" for name, value in settings.items()])
        )
        self.database.start()
        self.secrets = SecretRepo(self.database, WallClock())
        self.orders = OrderRepo(self.database, WallClock())

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1", port=self.server.port, user="postgres", dbname=self.name, autocommit=True
        )

    def run(self, statement: str) -> list[Any]:
        with self.connect() as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def close_project(self) -> None:
        """Close the project ``p``, as the confirmed removal of it does."""
        self.run(
            "INSERT INTO project_removals (project_id, requested_at, due_at, retry_at, attempts) "
            "VALUES ('p', now(), now(), now(), 0)"
        )

    def backends(self) -> list[int]:
        """The process ids of the sessions that belong to pipelines."""
        rows = self.run(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND query LIKE '%json_array_elements%'"
        )
        return [pid for (pid,) in rows]

    async def store(self) -> None:
        await gatherResults([self.secrets.create(NewSecret(secret_id, "p", name=secret_id)) for secret_id in _IDS])

    def read(self, ids: list[str] | None = None) -> Deferred[list[Secret | None]]:
        return gatherResults([self.secrets.get(secret_id) for secret_id in ids or _IDS], consumeErrors=True)

    def stop(self) -> None:
        self.database.stop()


@pytest.fixture
def world(postgresql: PostgreSQL) -> Iterator[World]:
    world = World(postgresql)
    pytest_twisted.blockon(Deferred.fromCoroutine(world.store()))
    yield world
    world.stop()


async def outcome(deferred: Awaitable[object]) -> object:
    try:
        return await deferred
    except Exception as problem:
        return problem


@pytest_twisted.ensureDeferred
async def test_concurrent_lookups_share_one_connection_and_each_has_its_row(world: World) -> None:
    found = await world.read()
    assert [secret.id for secret in found if secret] == _IDS
    assert len(world.backends()) == 1
    assert await world.read(["none", _IDS[3], "none"]) == [None, found[3], None]


@pytest_twisted.ensureDeferred
async def test_a_session_that_is_killed_costs_nobody_an_answer(world: World) -> None:
    await world.read()
    with world.connect() as locker, locker.transaction():
        locker.execute("LOCK TABLE secrets")
        reading = world.read()
        while not (waiting := world.run("SELECT pid FROM pg_locks WHERE NOT granted")):
            await pause(0.02)
        world.run(f"SELECT pg_terminate_backend({waiting[0][0]})")
    assert [secret.id for secret in await reading if secret] == _IDS


@pytest_twisted.ensureDeferred
async def test_sessions_that_end_between_requests_are_replaced(world: World) -> None:
    for _ in range(3):
        assert len(await world.read()) == len(_IDS)
        for pid in world.backends():
            world.run(f"SELECT pg_terminate_backend({pid})")


@pytest_twisted.ensureDeferred
async def test_one_value_that_the_database_rejects_fails_alone(world: World) -> None:
    outcomes = await DeferredList(
        [world.secrets.get(_IDS[0]), world.secrets.get(_IDS[1], "a\0b"), world.secrets.get(_IDS[2], "\ud800")],
        consumeErrors=True,
    )
    (first, second, third) = [result for _, result in outcomes]
    # NUL can be a part of a user id; a surrogate cannot be encoded.
    assert (first.id, second.id) == (_IDS[0], _IDS[1])
    assert isinstance(third.value, BadRequest)


@pytest_twisted.ensureDeferred
async def test_a_row_that_cannot_be_read_fails_only_its_own_lookup(world: World) -> None:
    world.run(f"UPDATE secrets SET created_at = 'infinity' WHERE id = '{_IDS[1]}'")
    outcomes = await DeferredList([world.secrets.get(secret_id) for secret_id in _IDS[:3]], consumeErrors=True)
    assert [succeeded for succeeded, _ in outcomes] == [True, False, True]
    assert not isinstance(outcomes[1][1].value, DatabaseUnavailable)


@pytest_twisted.ensureDeferred
async def test_a_setting_that_changes_the_meaning_of_text_changes_no_ciphertext(postgresql: PostgreSQL) -> None:
    world = World(postgresql)
    world.run(f"ALTER DATABASE {world.name} SET standard_conforming_strings = off")
    datum = bytes(range(256)) + b"\\x00"
    kek = KEKMeta(str(uuid.uuid4()), "plugin", "label", "aes", 256, "gcm", "wrapped")
    kek = await KEKRepo(world.database, WallClock()).add_active("p", kek)
    payload = StoredPayload("store", "text/plain", {}, EncryptedDatum(kek, datum))
    await world.secrets.create(new(0, payload=payload))
    assert (await world.secrets.get(new(0).id, with_payload=True)).payload.datum.cypher_text == datum
    world.stop()


@pytest_twisted.ensureDeferred
async def test_what_is_not_the_protocol_ends_the_connection_and_not_the_process(world: World) -> None:
    from twisted.internet import reactor

    ours, theirs = socket.socketpair()
    with ours, theirs:
        await world.read()
        connection = world.connect()
        pipeline = Pipeline(reactor, connection, datetime.datetime.now())
        sent = pipeline.send([Execution(CompiledStatement.of(select(literal("x").label("x"))), ["x"])])
        os.dup2(ours.fileno(), connection.pgconn.socket)
        theirs.send(b"\xff" * 100)
        pipeline.doRead()
        pipeline.abort()
        assert isinstance(await outcome(sent), PipelineLost)


@pytest_twisted.ensureDeferred
async def test_a_table_that_is_locked_delays_only_its_own_lookups(world: World) -> None:
    await world.read()
    assert await world.orders.get("none", "p") is None
    with world.connect() as locker, locker.transaction():
        locker.execute("LOCK TABLE orders")
        stuck = outcome(world.orders.get("none", "p"))
        assert len(await world.read()) == len(_IDS)
        assert isinstance(await stuck, DatabaseUnavailable)
    assert await world.orders.get("none", "p") is None


@pytest_twisted.ensureDeferred
async def test_a_table_that_is_missing_is_reported_and_found_when_it_is_back(world: World) -> None:
    world.run("ALTER TABLE acls RENAME TO elsewhere")
    problem = await outcome(world.secrets.get(_IDS[0]))
    assert isinstance(problem, DatabaseUnavailable) and "acls" in str(problem.debug["cause"])
    world.run("ALTER TABLE elsewhere RENAME TO acls")
    assert (await world.secrets.get(_IDS[0])).id == _IDS[0]


@pytest_twisted.ensureDeferred
async def test_lookups_whose_callers_left_do_not_hold_up_others(world: World) -> None:
    await world.read()
    with world.connect() as locker, locker.transaction():
        locker.execute("LOCK TABLE secrets")
        abandoned = [world.secrets.get(secret_id).addErrback(lambda _: None) for secret_id in _IDS]
        await pause(0.05)
        for deferred in abandoned:
            deferred.cancel()
    assert len(await world.read()) == len(_IDS)


def new(number: int, **fields: Any) -> NewSecret:
    return NewSecret(f"{number:08}-0000-4000-9000-000000000000", "p", **fields)


def insert(locker: psycopg.Connection[Any], number: int) -> None:
    """Insert a secret, so that its creation by others waits until the transaction ends."""
    locker.execute(
        "INSERT INTO secrets (id, project_id, secret_type, status, created_at, updated_at) "
        "SELECT %s, id, 'opaque', 'ACTIVE', now(), now() FROM projects WHERE external_id = 'p'",
        (new(number).id,),
    )


async def stored(world: World) -> list[str]:
    return [row[0] for row in world.run("SELECT id FROM secrets WHERE id LIKE '%-9000-%' ORDER BY id")]


@pytest_twisted.ensureDeferred
async def test_of_creations_that_share_a_transaction_one_that_fails_takes_no_other_with_it(world: World) -> None:
    bad = {3: {"name": "x" * 600}, 7: {"mode": "\ud800"}, 11: {"algorithm": "a\0b"}}
    creations = [world.secrets.create(new(number, **bad.get(number, {}))) for number in range(20)]
    creations.append(world.secrets.create(new(5)))
    outcomes = [result for _, result in await DeferredList(creations, consumeErrors=True)]
    assert isinstance(outcomes[3].value, BadRequest) and isinstance(outcomes[7].value, BadRequest)
    # NUL can be stored in free text. Of two creations with one id, one fails.
    assert outcomes[11] is None and [outcomes[5], outcomes[20]].count(None) == 1
    assert await stored(world) == [new(number).id for number in range(20) if number not in (3, 7)]
    assert (await world.secrets.get(new(11).id)).algorithm == "a\0b"


@pytest_twisted.ensureDeferred
async def test_a_creation_whose_session_is_killed_is_not_tried_again_and_its_outcome_is_unknown(world: World) -> None:
    await world.secrets.create(new(0))
    with world.connect() as locker, locker.transaction():
        locker.execute("LOCK TABLE secrets")
        creating = [outcome(world.secrets.create(new(number))) for number in range(1, 10)]
        creating = [Deferred.fromCoroutine(creation) for creation in creating]
        while not (waiting := world.run("SELECT pid FROM pg_locks WHERE NOT granted")):
            await pause(0.02)
        world.run(f"SELECT pg_terminate_backend({waiting[0][0]})")
    outcomes = await gatherResults(creating)
    unknown = [problem for problem in outcomes if problem is not None]
    assert unknown and all(isinstance(p, DatabaseUnavailable) and p.outcome_unknown for p in unknown), outcomes
    assert len(await stored(world)) == 1 + outcomes.count(None)
    # The next creation has a new connection.
    await world.secrets.create(new(10))


@pytest_twisted.ensureDeferred
async def test_a_creation_that_waits_too_long_for_a_lock_is_refused_and_changes_nothing(world: World) -> None:
    with world.connect() as locker, locker.transaction():
        locker.execute("LOCK TABLE encrypted_data, secrets IN EXCLUSIVE MODE")
        problem = await outcome(world.secrets.create(new(0)))
        assert isinstance(problem, DatabaseUnavailable)
        # Reads do not need the lock.
        assert (await world.secrets.get(_IDS[0])).id == _IDS[0]
    await world.secrets.create(new(1))
    assert new(1).id in await stored(world)


@pytest_twisted.ensureDeferred
async def test_a_creation_that_the_commit_refuses_takes_no_other_with_it(world: World) -> None:
    world.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.name = 'refused' THEN RAISE serialization_failure; END IF; RETURN NULL; END $$; "
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON secrets DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    names = {3: "refused"}
    creations = [world.secrets.create(new(number, name=names.get(number))) for number in range(10)]
    outcomes = [result for _, result in await DeferredList(creations, consumeErrors=True)]
    failed = outcomes.pop(3)
    assert isinstance(failed.value, DatabaseUnavailable) and not failed.value.outcome_unknown
    assert outcomes == [None] * 9
    assert await stored(world) == [new(number).id for number in range(10) if number != 3]


@pytest_twisted.ensureDeferred
async def test_a_creation_that_waits_does_not_hold_up_the_next_group(world: World) -> None:
    with world.connect() as locker, locker.transaction():
        insert(locker, 3)
        waiting = Deferred.fromCoroutine(outcome(world.secrets.create(new(3))))
        while not world.run("SELECT pid FROM pg_locks WHERE NOT granted"):
            await pause(0.01)
        await world.secrets.create(new(4))
        assert not waiting.called
    await waiting


@pytest_twisted.ensureDeferred
async def test_several_creations_that_wait_for_locks_leave_nothing_unknown(world: World) -> None:
    with world.connect() as locker, locker.transaction():
        for number in (1, 3, 5):
            insert(locker, number)
        creations = [world.secrets.create(new(number)) for number in range(10)]
        outcomes = [result for _, result in await DeferredList(creations, consumeErrors=True)]
    failed = {number: each.value for number, each in enumerate(outcomes) if each is not None}
    assert {1, 3, 5} <= failed.keys()
    assert all(isinstance(each, DatabaseUnavailable) and not each.outcome_unknown for each in failed.values())
    known = [new(number).id for number in range(10) if number not in failed or number in (1, 3, 5)]
    assert await stored(world) == known


@pytest_twisted.ensureDeferred
async def test_a_creation_that_waits_for_a_lock_fails_alone(world: World) -> None:
    with world.connect() as locker, locker.transaction():
        insert(locker, 3)
        creations = [world.secrets.create(new(number)) for number in range(10)]
        outcomes = [result for _, result in await DeferredList(creations, consumeErrors=True)]
    failed = outcomes.pop(3)
    assert isinstance(failed.value, DatabaseUnavailable) and not failed.value.outcome_unknown
    assert outcomes == [None] * 9
    assert await stored(world) == [new(number).id for number in range(10)]


@pytest_twisted.ensureDeferred
async def test_what_a_creation_by_one_statement_cannot_do_is_done_the_general_way(world: World) -> None:
    world.run(
        "INSERT INTO project_quotas (project_id, secrets, created_at, updated_at) "
        "SELECT id, 42, now(), now() FROM projects WHERE external_id = 'p'"
    )
    outcomes = [
        result
        for _, result in await DeferredList(
            [world.secrets.create(new(number)) for number in range(5)], consumeErrors=True
        )
    ]
    assert outcomes.count(None) == 42 - len(_IDS) == len(await stored(world))
    assert {type(o.value) for o in outcomes if o is not None} == {QuotaReached}
    world.close_project()
    assert isinstance(await outcome(world.secrets.create(new(9))), ProjectClosed)
    await world.secrets.create(attrs.evolve(new(9), project_id="another"))
    assert (await world.secrets.get(new(9).id)).project_id == "another"


@pytest_twisted.ensureDeferred
async def test_a_frozen_server_is_unavailable_in_time_and_used_again_when_it_goes_on() -> None:
    from twisted.internet import reactor

    server = PostgreSQL()
    server.start()
    try:
        world = World(server)
        await world.store()
        await world.read()
        server.signal(signal.SIGSTOP)
        begin = reactor.seconds()
        outcomes = await DeferredList([world.secrets.get(secret_id) for secret_id in _IDS], consumeErrors=True)
        assert all(isinstance(result.value, DatabaseUnavailable) for _, result in outcomes)
        assert reactor.seconds() - begin < 10
        server.signal(signal.SIGCONT)
        while isinstance(await outcome(world.secrets.get(_IDS[0])), DatabaseUnavailable):
            await pause(0.1)
        world.stop()
    finally:
        server.signal(signal.SIGCONT)
        server.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_killed_and_starts_again_is_used_again() -> None:
    server = PostgreSQL()
    server.start()
    try:
        world = World(server)
        await world.store()
        await world.read()
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            server.kill()
            assert isinstance(await outcome(world.secrets.get(_IDS[0])), DatabaseUnavailable)
            server.start()
            while isinstance(await outcome(world.secrets.get(_IDS[0])), DatabaseUnavailable):
                await pause(0.1)
            assert len(await world.read()) == len(_IDS)
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 1
        world.stop()
    finally:
        server.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_without_free_connections_is_unavailable_until_it_has_some() -> None:
    server = PostgreSQL()
    server.start()
    world = World(server)
    others: list[psycopg.Connection[Any]] = []
    try:
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            others.extend(world.connect() for _ in range(1000))
        refused = [world.secrets.get(_IDS[0]), world.secrets.create(new(0)), world.orders.get(_IDS[0], "p")]
        for request in refused:
            problem = await outcome(request)
            assert isinstance(problem, DatabaseUnavailable) and not problem.outcome_unknown
            assert "too many clients" in problem.cause
        for connection in others:
            connection.close()
        while isinstance(await outcome(world.secrets.create(new(1))), DatabaseUnavailable):
            await pause(0.1)
        assert await stored(world) == [new(1).id]
    finally:
        world.stop()
        server.stop()


@pytest_twisted.ensureDeferred
async def test_stopping_closes_the_connections_and_starts_no_new_ones(postgresql: PostgreSQL) -> None:
    world = World(postgresql)
    await world.store()
    await world.read()
    threads = threading.active_count()
    world.stop()
    await pause(0)
    while world.backends():
        await pause(0.05)
    assert isinstance(await outcome(world.secrets.get(_IDS[0])), DatabaseUnavailable)
    assert threading.active_count() <= threads


async def order(world: World, orders: OrderRepo, project: str = "p", type_: str = "key") -> str:
    order_id = str(uuid.uuid4())
    task = Task(order_id, PROCESS_TYPE_ORDER, {"request_id": f"req-{order_id}"}, lane_of(type_))
    await orders.create(order_id, project, type_, "{}", "u", task, 60)
    return order_id


@pytest.fixture
def orders(world: World) -> OrderRepo:
    return OrderRepo(world.database, WallClock(), task_time=database_time)


@pytest_twisted.ensureDeferred
async def test_concurrent_claims_get_different_orders_and_projects_take_turns(world: World, orders: OrderRepo) -> None:
    much = [await order(world, orders, "much") for _ in range(6)]
    little = await order(world, orders, "little")
    leases = await gatherResults([orders.claim_next(SYMMETRIC, "", 30, much[0], "much") for _ in range(4)])
    assert len({lease.order.id for lease in leases}) == 4
    assert all(lease.attempt == 1 and lease.request_id == f"req-{lease.order.id}" for lease in leases)
    claimed = {lease.order.id for lease in leases}
    after = leases[0].project_key
    while little not in claimed and len(claimed) < 7:
        lease = await orders.claim_next(SYMMETRIC, after, 30)
        after = lease.project_key
        claimed.add(lease.order.id)
    # The project with one order did not wait for more than one further order of the other.
    assert len(claimed) <= 6
    while (lease := await orders.claim_next(SYMMETRIC, after, 30)) is not None:
        claimed.add(lease.order.id)
    assert claimed == {*much, little}


@pytest_twisted.ensureDeferred
async def test_projects_take_turns_within_a_group_and_from_group_to_group(world: World, orders: OrderRepo) -> None:
    made = {project: [await order(world, orders, project) for _ in range(7)] for project in ("a", "b", "c")}
    made["d"] = [await order(world, orders, "d")]
    position = {order_id: index for ids in made.values() for index, order_id in enumerate(ids)}
    after, claimed = "", []
    while leases := list(
        filter(None, await gatherResults([orders.claim_next(SYMMETRIC, after, 30) for _ in range(5)]))
    ):
        after = leases[-1].project_key
        claimed += [(lease.order.project_id, position[lease.order.id]) for lease in leases]
    assert len(claimed) == 22
    for project, ids in made.items():
        # The oldest order of each project is the first.
        assert [index for each, index in claimed if each == project] == list(range(len(ids)))
    turns = [project for project, _ in claimed]
    assert {frozenset(turns[start : start + 3]) for start in range(4, 19, 3)} == {frozenset("abc")}
    assert set(turns[:4]) == set("abcd")


@pytest_twisted.ensureDeferred
async def test_claims_that_wait_for_a_group_do_not_repeat_its_turns(world: World, orders: OrderRepo) -> None:
    for _ in range(2):
        for project in "abcd":
            await order(world, orders, project)
    first = gatherResults([orders.claim_next(SYMMETRIC, "", 30) for _ in range(2)])
    await pause(0)
    # These do not know yet whose turns the first two were.
    second = gatherResults([orders.claim_next(SYMMETRIC, "", 30) for _ in range(2)])
    leases = [*await first, *await second]
    assert {lease.order.project_id for lease in leases} == set("abcd")


@pytest_twisted.ensureDeferred
async def test_a_group_claims_for_each_what_it_may_get(world: World, orders: OrderRepo) -> None:
    waiting, pair, retried = (
        await order(world, orders),
        await order(world, orders, type_="asymmetric"),
        await order(world, orders, "q"),
    )
    await orders.retry(await orders.claim(retried, "q", 30), PROCESS_TYPE_ORDER, 60)
    gone = str(uuid.uuid4())
    named = [(pair, "p"), (waiting, "p"), (retried, "q"), (gone, "p"), (waiting, "p")]
    claims = [outcome(orders.claim_next(SYMMETRIC, "", 30, *name)) for name in named]
    of_pair, *others = await gatherResults([Deferred.fromCoroutine(claim) for claim in claims])
    assert isinstance(of_pair, WrongLane)
    claimed = [other.order.id for other in others if isinstance(other, Lease)]
    assert sorted(claimed) == sorted([waiting, retried])
    # One message names an order that does not exist, and two name the one that the other of them, or it, has claimed.
    left = [other for other in others if not isinstance(other, Lease)]
    assert len(left) == 2 and all(other is None or isinstance(other, NotFound) for other in left)


@pytest_twisted.ensureDeferred
async def test_a_claim_reads_as_few_rows_as_it_claims_although_statistics_are_missing(
    world: World, orders: OrderRepo
) -> None:
    for _ in range(3):
        await order(world, orders)
    # The plan is made now.
    assert await orders.claim_next(SYMMETRIC, "", 30) is not None
    # What this session reads to check foreign keys is reported before it is forgotten.
    world.run(
        "INSERT INTO orders SELECT (jsonb_populate_record(o, jsonb_build_object('id', gen_random_uuid()))).* "
        "FROM (SELECT o FROM orders o LIMIT 1) AS one (o), generate_series(1, 200);"
        "INSERT INTO order_retry_tasks SELECT (jsonb_populate_record(t, jsonb_build_object('order_id', o.id))).* "
        "FROM (SELECT t FROM order_retry_tasks t WHERE waits_in IS NOT NULL LIMIT 1) AS one (t), orders o "
        "WHERE NOT EXISTS (SELECT FROM order_retry_tasks k WHERE k.order_id = o.id);"
        "SELECT pg_stat_force_next_flush()"
    )
    world.run("SELECT pg_stat_reset()")
    leases = await gatherResults([orders.claim_next(SYMMETRIC, "", 30, _IDS[0], "p") for _ in range(10)])
    assert len({lease.order.id for lease in leases}) == 10
    # They report what they have read when they end.
    world.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()"
    )
    read: list[tuple[int]] = []
    while not read or not read[0][0]:
        await pause(0.1)
        read = world.run(
            "SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read)::int FROM pg_stat_user_tables "
            "WHERE relname IN ('orders', 'order_retry_tasks')"
        )
    assert read[0][0] < 100


@pytest_twisted.ensureDeferred
async def test_a_claim_of_unknown_outcome_waits_for_the_transaction_that_may_have_taken_an_order(
    world: World, orders: OrderRepo
) -> None:
    made = [await order(world, orders) for _ in range(2)]
    claim, statement = Claim(), claim_statement(30)
    claim.may_be_taken = True
    values = claim_values(SYMMETRIC, "", [(claim.token, None)])
    parameters = statement.parameters({**values, "deadline": datetime.datetime(2100, 1, 1)})
    with world.connect() as connection:
        with connection.transaction():
            result = connection.pgconn.exec_params(
                statement.text, [None if v is None else str(v).encode() for v in parameters]
            )
            assert not result.error_message
            again = orders.claim_next(SYMMETRIC, "", 30, claim=claim)
            while not world.run("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
                await pause(0.02)
        assert (await again).order.id == made[0]
    assert world.run("SELECT count(*)::int FROM order_retry_tasks WHERE lease IS NOT NULL") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_nothing_waiting_is_known_without_a_transaction(world: World, orders: OrderRepo) -> None:
    general: list[str] = []
    event.listen(world.database.engine, "before_cursor_execute", lambda *arguments: general.append(arguments[2]))
    assert await orders.claim_next(SYMMETRIC, "", 30) is None
    order_id = await order(world, orders)
    leases = await gatherResults([orders.claim_next(SYMMETRIC, "", 30, order_id, "p") for _ in range(3)])
    assert [lease.order.id for lease in leases if lease is not None] == [order_id]
    assert general == []


@pytest_twisted.ensureDeferred
async def test_a_message_of_another_lane_or_for_a_due_retry_is_not_taken_for_a_permit(
    world: World, orders: OrderRepo
) -> None:
    waiting, pair = await order(world, orders), await order(world, orders, type_="asymmetric")
    with pytest.raises(WrongLane):
        await orders.claim_next(SYMMETRIC, "", 30, pair, "p")
    retried = await order(world, orders, "q")
    lease = await orders.claim(retried, "q", 30)
    await orders.retry(lease, PROCESS_TYPE_ORDER, 0)
    assert (await orders.claim_next(SYMMETRIC, "", 30, retried, "q")).order.id == retried
    # An order that was deleted is a permit like any other.
    await orders.delete(retried, "q")
    assert (await orders.claim_next(SYMMETRIC, "", 30, retried, "q")).order.id == waiting
    with pytest.raises(NotFound):
        await orders.claim_next(SYMMETRIC, "", 30, retried, "q")


@pytest_twisted.ensureDeferred
async def test_what_is_frequent_needs_no_transaction_of_several_statements(world: World, orders: OrderRepo) -> None:
    general: list[str] = []
    event.listen(world.database.engine, "before_cursor_execute", lambda *arguments: general.append(arguments[2]))
    order_id = await order(world, orders)
    lease = await orders.claim_next(SYMMETRIC, "", 30, order_id, "p")
    await orders.complete(lease, GeneratedObjects((new(1),)), "s", "m")
    await world.secrets.create(new(2))
    assert (await orders.get(order_id, "p")).status == "ACTIVE" and await world.secrets.get(new(1).id)
    assert general == []


@pytest_twisted.ensureDeferred
async def test_an_order_is_completed_once_and_only_by_who_holds_it(world: World, orders: OrderRepo) -> None:
    order_id = await order(world, orders)
    stale = await orders.claim_next(SYMMETRIC, "", 0.01)
    await pause(0.05)
    lease = await orders.claim_next(SYMMETRIC, "", 30, order_id, "p")
    assert lease.attempt == 2
    with pytest.raises(LeaseLost):
        await orders.complete(stale, GeneratedObjects((new(1),)), "s", "m")
    for _ in range(2):
        # The second call is the retry of one whose outcome was unknown.
        await orders.complete(lease, GeneratedObjects((new(2, name="made"),)), "s", "m")
    assert await stored(world) == [new(2).id]
    done = await orders.get(order_id, "p")
    assert (done.status, done.secret_id, done.sub_status, done.sub_status_message) == ("ACTIVE", new(2).id, "s", "m")
    assert world.run("SELECT count(*) FROM order_retry_tasks") == [(0,)]


@pytest_twisted.ensureDeferred
async def test_an_order_of_a_closed_project_is_neither_claimed_nor_completed(world: World, orders: OrderRepo) -> None:
    order_id = await order(world, orders)
    lease = await orders.claim_next(SYMMETRIC, "", 30)
    await order(world, orders)
    world.close_project()
    assert await orders.claim_next(SYMMETRIC, "", 30) is None
    with pytest.raises(ProjectClosed):
        await orders.complete(lease, GeneratedObjects((new(1),)), "s", "m")
    assert await stored(world) == [] and (await orders.get(order_id, "p")).status == "PENDING"


@pytest_twisted.ensureDeferred
async def test_a_claim_of_unknown_outcome_is_found_by_its_retry(
    world: World, orders: OrderRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id, claim = await order(world, orders), Claim()
    send = Pipeline.send

    def lose(pipeline: Pipeline, executions: Any) -> Deferred[Any]:
        # The server commits, and its response is lost.
        return send(pipeline, executions).addCallback(lambda _: fail(PipelineLost()))

    monkeypatch.setattr(Pipeline, "send", lose)
    problem = await outcome(orders.claim_next(SYMMETRIC, "", 30, claim=claim))
    assert isinstance(problem, DatabaseUnavailable) and problem.outcome_unknown
    monkeypatch.undo()
    lease = await orders.claim_next(SYMMETRIC, "", 30, claim=claim)
    assert (lease.order.id, lease.token, lease.attempt) == (order_id, claim.token, 1)
