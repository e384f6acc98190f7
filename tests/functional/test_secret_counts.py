"""The number of secrets that lists show: on PostgreSQL it is maintained, and always what counting would find."""

from __future__ import annotations

import datetime
import random
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import pytest_twisted
from sqlalchemy import bindparam, event, func, select
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.errors import BadRequest, ConfigurationError
from barbtx.model.database import Database
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.migration import check_schema
from barbtx.model.models import Project, Secret, SecretCount, SecretCountChange
from barbtx.model.records import NewSecret, Page
from barbtx.model.records import Secret as SecretRecord
from barbtx.model.repositories.project_removal import ProjectRemovalRepo
from barbtx.model.repositories.secret_counts import SecretCountRepo, count_unexpired, maintained_count
from barbtx.model.repositories.secret_queries import unexpired
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.tasks.count_folding import CountFolding
from tests.conftest import unique
from tests.functional.conftest import NOW
from tests.support.servers import PATIENCE, PostgreSQL, wait_until

DAY = datetime.timedelta(days=1)
PROJECTS = ("p0", "p1", "p2")
#: Around the present day, whose secrets are counted one by one, and at the limits of the calendar.
EXPIRATIONS = (
    None,
    NOW - 300 * DAY,
    NOW.replace(hour=0, minute=0, second=0, microsecond=0),
    NOW - datetime.timedelta(microseconds=1),
    NOW,
    NOW + datetime.timedelta(microseconds=1),
    NOW.replace(hour=23, minute=59, second=59, microsecond=999999),
    NOW.replace(hour=0, minute=0, second=0, microsecond=0) + DAY,
    NOW + 3 * DAY,
    datetime.datetime(9999, 12, 31, 23, 59, 59),
)
_INSERT = (
    "INSERT INTO secrets (id, project_id, secret_type, status, expiration, created_at, updated_at)"
    " SELECT gen_random_uuid(), p, 'opaque', 'ACTIVE', e, now(), now()"
    " FROM unnest(%s::text[], %s::timestamp[]) AS t(p, e)"
)
#: What an operator, an import or barbtx may do to secrets in one statement.
_CHANGES = (
    "DELETE FROM secrets WHERE id IN (SELECT id FROM secrets ORDER BY random() LIMIT 3 FOR UPDATE SKIP LOCKED)",
    "UPDATE secrets SET name = 'changed' WHERE id IN (SELECT id FROM secrets LIMIT 5 FOR UPDATE SKIP LOCKED)",
    "UPDATE secrets SET expiration = CASE WHEN random() < 0.5 THEN expiration + interval '1 day' END"
    " WHERE id IN (SELECT id FROM secrets ORDER BY random() LIMIT 3 FOR UPDATE SKIP LOCKED)",
    "UPDATE secrets SET project_id = 'p1' WHERE id IN"
    " (SELECT id FROM secrets ORDER BY random() LIMIT 2 FOR UPDATE SKIP LOCKED)",
    "WITH gone AS (DELETE FROM secrets WHERE id IN (SELECT id FROM secrets LIMIT 2 FOR UPDATE SKIP LOCKED) RETURNING *)"
    " INSERT INTO secrets (id, project_id, secret_type, status, created_at, updated_at)"
    " SELECT gen_random_uuid(), project_id, secret_type, status, created_at, updated_at FROM gone",
    "DELETE FROM secrets WHERE id = 'none'",
)


class Books:
    """A database with three projects, and both ways to count its secrets."""

    def __init__(self, server: PostgreSQL, clock: Clock) -> None:
        from twisted.internet import reactor

        name = unique()
        self.url = server.new_database(name)
        assert manage(["db", "upgrade", "-d", self.url]) == 0
        self.database = Database.from_config(
            reactor, load([], [f"database.connection={self.url}", "database.timeout_seconds=60"])
        )
        self.database.start()
        self.counts, self.secrets = SecretCountRepo(self.database, clock), SecretRepo(self.database, clock)
        self._arguments = {"host": "127.0.0.1", "port": server.port, "user": "postgres", "dbname": name}
        with self.connect() as connection:
            for project in PROJECTS:
                connection.execute("INSERT INTO projects VALUES (%s, %s, now())", (project, f"external {project}"))

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(**self._arguments, autocommit=True)

    def run(self, *statements: str) -> None:
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement)

    def differences(self) -> list[tuple]:
        """Projects and times for which the maintained count is wrong, in one snapshot."""
        now = bindparam("now", type_=Secret.expiration.type)
        counted = (
            select(func.count())
            .select_from(Secret)
            .where(Secret.project_id == Project.id, unexpired(now))
            .scalar_subquery()
        )
        query = select(Project.id, maintained_count(Project.id, now), counted)
        with Session(self.database.engine) as session:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            return [
                (now, *row)
                for now in (NOW, NOW + DAY, NOW - DAY, datetime.datetime(9998, 1, 1))
                for row in session.execute(query, {"now": now})
                if row[1] != row[2]
            ]


@pytest.fixture
def books(postgresql: PostgreSQL, clock: Clock) -> Iterator[Books]:
    books = Books(postgresql, clock)
    yield books
    books.database.stop()


def change(connection: psycopg.Connection, dice: random.Random) -> None:
    """Change secrets at random, in one transaction, which is sometimes rolled back."""
    with connection.transaction(force_rollback=dice.random() < 0.2):
        for _ in range(dice.randint(1, 3)):
            if dice.random() < 0.5:
                number = dice.randint(1, 4)
                rows = dice.choices(PROJECTS, k=number), dice.choices(EXPIRATIONS, k=number)
                connection.execute(_INSERT, rows)
            else:
                connection.execute(dice.choice(_CHANGES))


@pytest_twisted.ensureDeferred
async def test_the_count_is_right_after_every_kind_of_change(books: Books) -> None:
    dice = random.Random(7)
    with books.connect() as connection:
        for step in range(150):
            change(connection, dice)
            if dice.random() < 0.3:
                await books.counts.fold(dice.choice((1, 3, 1000)))
            if step == 75:
                connection.execute("TRUNCATE secrets CASCADE")
            assert books.differences() == [], step


@pytest_twisted.ensureDeferred
async def test_the_count_is_right_while_others_change_and_fold(books: Books) -> None:
    stop = threading.Event()
    problems: list[object] = []

    def repeat(work) -> None:
        while not stop.is_set():
            try:
                work()
            except Exception as problem:
                problems.append(problem)
                stop.set()

    def changing(seed: int) -> None:
        dice = random.Random(seed)
        with books.connect() as connection:
            repeat(lambda: change(connection, dice))

    def comparing() -> None:
        if found := books.differences():
            raise AssertionError(found)

    with ThreadPoolExecutor(6) as threads:
        for seed in range(4):
            threads.submit(changing, seed)
        threads.submit(repeat, comparing)
        try:
            folded = 0
            while folded < 600 and not stop.is_set():
                both = [books.counts.fold(20), books.counts.fold(20)]
                folded += sum([await changes for changes in both])
        finally:
            stop.set()
    assert problems == []
    while await books.counts.fold(1000):
        pass
    assert books.differences() == []
    assert await rows_of(books, SecretCountChange) == 0


async def rows_of(books: Books, model: type) -> int:
    return await books.database.interact(lambda session: session.scalar(select(func.count()).select_from(model)))


@pytest_twisted.ensureDeferred
async def test_counts_of_zero_and_of_removed_projects_leave_nothing(books: Books, clock: Clock) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for secret_id, expiration in zip(ids, (None, None, NOW + DAY), strict=True):
        await books.secrets.create(NewSecret(secret_id, "external p0", expiration=expiration))
    await books.counts.fold(1000)
    assert await rows_of(books, SecretCount) == 2
    await books.secrets.delete(ids[2])
    await books.counts.fold(1000)
    assert await rows_of(books, SecretCount) == 1
    # Its last changes are folded only after the project is gone.
    books.run("DELETE FROM secrets", "DELETE FROM projects WHERE id = 'p0'")
    assert await rows_of(books, SecretCount) == 0
    assert await books.counts.fold(1000) == 1
    assert await rows_of(books, SecretCount) == await rows_of(books, SecretCountChange) == 0


@pytest_twisted.ensureDeferred
async def test_removing_a_project_while_its_changes_wait_works(books: Books, clock: Clock) -> None:
    await books.secrets.create(NewSecret(str(uuid.uuid4()), "external p0"))
    removal = ProjectRemovalRepo(books.database, clock, 60.0)
    (secret,) = await removal.secrets("external p0", "", 10)
    await books.secrets.delete(secret.id)
    books.run("DELETE FROM projects WHERE id = 'p0'")
    await books.counts.fold(1000)
    assert (await books.secrets.list_page("external p0", (), (), 10, 0)) == Page((), 0)


@pytest_twisted.ensureDeferred
async def test_an_upgrade_counts_what_is_there(database_url: str) -> None:
    from twisted.internet import reactor

    assert manage(["db", "upgrade", "-d", database_url, "-v", "0008"]) == 0
    database = Database.from_config(reactor, load([], [f"database.connection={database_url}"]))
    database.start()
    try:

        def fill(session: Session) -> None:
            session.add(Project(id="p", external_id="p", created_at=NOW))
            session.flush()
            for expiration in EXPIRATIONS * 3:
                fields = {"secret_type": "opaque", "status": "ACTIVE", "created_at": NOW, "updated_at": NOW}
                session.add(Secret(id=str(uuid.uuid4()), project_id="p", expiration=expiration, **fields))

        await database.interact(fill)
        assert manage(["db", "upgrade", "-d", database_url]) == 0
        expected = sum(3 for expiration in EXPIRATIONS if expiration is None or expiration > NOW)
        assert await database.interact(lambda session: count_unexpired(session, "p", NOW)) == expected
    finally:
        database.stop()


def test_an_upgrade_counts_what_was_written_while_it_waited(postgresql: PostgreSQL) -> None:
    url = postgresql.new_database(unique())
    assert manage(["db", "upgrade", "-d", url, "-v", "0008"]) == 0
    with (
        psycopg.connect(url, autocommit=True) as observer,
        psycopg.connect(url) as writer,
        ThreadPoolExecutor() as threads,
    ):
        name = observer.info.dbname
        observer.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'")
        observer.execute("INSERT INTO projects VALUES ('p', 'external p', now())")
        writer.execute(_INSERT, (["p"], [None]))
        upgrade = threads.submit(manage, ["db", "upgrade", "-d", url])
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        wait_until(lambda: observer.execute(waiting, (name,)).fetchone() == (1,), PATIENCE, "the upgrade does not wait")
        writer.commit()
        assert upgrade.result() == 0
        assert observer.execute("SELECT project_id, secrets FROM secret_counts").fetchall() == [("p", 1)]


@pytest_twisted.ensureDeferred
async def test_the_statement_and_the_transaction_find_the_same_pages(database: Database, clock: Clock) -> None:
    dice = random.Random(11)
    alike = SecretRepo(database, clock)
    general = Database(
        database.reactor, database.engine, database.threads, database.admission, database.timeout, database.max_retries
    )
    others = SecretRepo(general, clock)
    stored: list[NewSecret] = []
    for _ in range(60):
        new = NewSecret(str(uuid.uuid4()), dice.choice("ab"), name="n\0ä", expiration=dice.choice(EXPIRATIONS))
        await alike.create(new)
        stored.append(new)
        clock.advance(dice.choice((0, 0, 0.000001)))
    now = NOW + datetime.timedelta(seconds=1)
    clock.advance((now.replace(tzinfo=datetime.UTC).timestamp()) - clock.seconds())
    for project in ("a", "b", "unknown"):
        for limit, offset in ((10, 0), (10, 20), (1, 5), (100, 0), (5, 98), (10, 990), (10, 991), (10, 10**6)):
            pages: list[Page[SecretRecord]] = [
                await repo.list_page(project, (), (), limit, offset) for repo in (alike, others)
            ]
            assert pages[0] == pages[1], (project, limit, offset)
            assert pages[0].total == sum(
                new.project_id == project and (new.expiration is None or new.expiration > now) for new in stored
            )


@pytest_twisted.ensureDeferred
async def test_frequent_lists_need_no_transaction(books: Books) -> None:
    await books.secrets.create(NewSecret(str(uuid.uuid4()), "external p0"))
    transactions: list[object] = []
    event.listen(books.database.engine, "begin", transactions.append)
    assert (await books.secrets.list_page("external p0", (), (), 10, 0)).total == 1
    assert transactions == []
    assert (await books.secrets.list_page("external p0", (), (("name", False),), 10, 0)).total == 1
    assert len(transactions) == 1


@pytest_twisted.ensureDeferred
async def test_a_list_that_is_slow_goes_on_in_a_transaction_and_so_do_the_next_of_its_project(books: Books) -> None:
    await books.secrets.create(NewSecret(str(uuid.uuid4()), "external p0"))
    began: Deferred[None] = Deferred()
    transactions: list[object] = []

    def note(connection: object) -> None:
        transactions.append(connection)
        if len(transactions) == 1:
            books.database.reactor.callFromThread(began.callback, None)

    event.listen(books.database.engine, "begin", note)
    with books.connect() as locker, locker.transaction():
        locker.execute("LOCK TABLE secrets")
        page = books.secrets.list_page("external p0", (), (), 10, 0)
        await began
    assert (await page).total == 1
    assert (await books.secrets.list_page("external p1", (), (), 10, 0)).total == 0 and len(transactions) == 1
    assert (await books.secrets.list_page("external p0", (), (), 10, 0)).total == 1 and len(transactions) == 2


@pytest_twisted.ensureDeferred
async def test_lists_share_a_session_and_survive_its_loss(books: Books) -> None:
    await books.secrets.create(NewSecret(str(uuid.uuid4()), "external p0"))
    await books.secrets.list_page("external p0", (), (), 10, 0)
    pages = [books.secrets.list_page("external p0", (), (), 10, 0) for _ in range(50)]
    refused = books.secrets.list_page("external \0", (), (), 10, 0)
    ended = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE %s"
    )
    with books.connect() as connection:
        assert connection.execute(ended, ("%MATERIALIZED%",)).fetchall() == [(True,)]
    assert [(await page).total for page in pages] == [1] * 50
    with pytest.raises(BadRequest):
        await refused
    assert (await books.secrets.list_page("external p0", (), (), 10, 0)).total == 1


def test_missing_triggers_are_reported_and_recounting_repairs(books: Books, capsys: pytest.CaptureFixture) -> None:
    def check() -> None:
        with Session(books.database.engine) as session:
            check_schema(session)

    check()
    with books.connect() as connection:
        connection.execute("ALTER TABLE secrets DISABLE TRIGGER count_added_secrets")
        connection.execute(_INSERT, (["p0", "p0", "p1"], [None, NOW + DAY, None]))
        with pytest.raises(ConfigurationError, match="count_added_secrets"):
            check()
        connection.execute("ALTER TABLE secrets ENABLE TRIGGER count_added_secrets")
    check()
    assert books.differences()
    capsys.readouterr()
    for said in ("corrected the counts of 2 projects", "all counts were right"):
        assert manage(["db", "recount", "-d", books.url]) == 0
        assert capsys.readouterr().out.strip() == said
        assert books.differences() == []


def test_other_databases_have_no_counts_to_correct(capsys: pytest.CaptureFixture) -> None:
    assert manage(["db", "recount", "-d", "sqlite:////tmp/none.sqlite"]) == 1
    assert "PostgreSQL" in capsys.readouterr().err


def test_whoever_may_change_secrets_need_not_have_privileges_for_their_counts(books: Books) -> None:
    role = unique()
    try:
        with books.connect() as connection:
            connection.execute(f"CREATE ROLE {role}")
            connection.execute(f"GRANT SELECT, INSERT, DELETE, UPDATE ON secrets TO {role}")
            connection.execute(f"SET ROLE {role}")
            connection.execute(_INSERT, (["p0", "p0"], [None, None]))
            connection.execute(_CHANGES[0])
            connection.execute("RESET ROLE")
        assert books.differences() == []
    finally:
        books.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


class Counts:
    """Stands for the repository: each fold finds the next of some numbers of changes, or fails."""

    maintained = True

    def __init__(self, *found: int | Exception) -> None:
        self.found, self.folds = list(found), 0

    def fold(self, limit: int) -> Deferred[int]:
        assert limit == 1000
        self.folds += 1
        changes = self.found.pop(0) if self.found else 0
        return succeed(changes) if isinstance(changes, int) else fail(changes)


def test_changes_are_folded_soon_while_there_are_any_and_seldom_otherwise() -> None:
    clock, counts = Clock(), Counts(1000, 1000, 3, DatabaseUnavailable("down"), 5)
    service = CountFolding(clock, counts, lambda: 1.0)
    service.startService()
    # Two full batches and a third; then one that fails, and one that is not full.
    for seconds, folds in ((0.9, 0), (0.2, 3), (0.8, 3), (0.2, 4), (1.8, 4), (0.2, 5), (0.8, 5), (0.2, 6)):
        clock.advance(seconds)
        assert counts.folds == folds, seconds
    clock.pump([1.0] * 100)
    assert counts.folds < 6 + 15
    service.stopService()
    assert clock.getDelayedCalls() == []


def test_where_there_are_no_counts_nothing_is_folded() -> None:
    clock, counts = Clock(), Counts()
    counts.maintained = False
    service = CountFolding(clock, counts)
    service.startService()
    assert clock.getDelayedCalls() == []
    service.stopService()
