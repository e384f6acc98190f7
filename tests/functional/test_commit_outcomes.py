"""What an error of the database says about the transaction: that nothing was changed, or that nobody knows."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import pytest_twisted
from sqlalchemy import event, insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.model.admission import Admission
from barbtx.model.database import Database
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.models import Project
from tests.conftest import unique
from tests.functional.conftest import NOW
from tests.support.servers import PostgreSQL


def add_project(session: Session) -> None:
    session.execute(insert(Project).values(id=str(uuid.uuid4()), external_id="p", created_at=NOW))


async def count(database: Database) -> int:
    return await database.interact(lambda session: session.query(Project).count(), write=False)


def unknown(problem: BaseException) -> bool:
    return getattr(problem, "outcome_unknown", False)


class Held:
    """A point in a transaction where the first thread that comes stays until it is let go.

    :ivar reached: fires when the thread is there.
    """

    def __init__(self) -> None:
        self.reached: Deferred[None] = Deferred()
        self._first = threading.Lock()
        self._go = threading.Event()

    def __call__(self, *_: object) -> None:
        from twisted.internet import reactor

        if not self._first.acquire(blocking=False):
            return
        reactor.callFromThread(self.reached.callback, None)
        assert self._go.wait(60)

    def drop(self) -> None:
        self._go.set()


class Time(Clock):
    """The reactor of a database, whose time a test moves."""

    def callFromThread(self, function: Callable, *arguments: object) -> None:
        from twisted.internet import reactor

        reactor.callFromThread(function, *arguments)


def time_out(result: Deferred[Any], database: Database) -> None:
    database.reactor.advance(database.timeout)


def cancel(result: Deferred[Any], database: Database) -> None:
    result.cancel()


@pytest.mark.parametrize("in_commit", [False, True], ids=["before commit", "in commit"])
@pytest.mark.parametrize(("end", "error"), [(time_out, DatabaseUnavailable), (cancel, CancelledError)])
@pytest_twisted.ensureDeferred
async def test_who_stops_waiting_before_the_commit_knows_that_there_is_none(
    database: Database, end: Callable, error: type[Exception], in_commit: bool
) -> None:
    held = Held()
    if in_commit:
        event.listen(database.engine, "commit", held)
    timed = attrs.evolve(database, reactor=Time())

    def work(session: Session) -> None:
        add_project(session)
        if not in_commit:
            held()

    result = timed.interact(work)
    await held.reached
    end(result, timed)
    try:
        with pytest.raises(error) as caught:
            await result
        assert unknown(caught.value) is in_commit
    finally:
        held.drop()
    # On SQLite this comes after the one that was given up, elsewhere its thread ends with the pool.
    while in_commit and await count(database) == 0:
        pass
    await database.interact(lambda session: None)
    assert await count(database) == in_commit


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_without_room_or_a_connection_nothing_was_changed(database: Database) -> None:
    full = attrs.evolve(database, admission=Admission(1, 0))
    with pytest.raises(DatabaseUnavailable) as caught:
        await full.interact(add_project)
    assert not unknown(caught.value) and await count(database) == 0


@pytest.mark.parametrize("write", [False, True], ids=["reading", "writing"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_any_failure_of_a_commit_leaves_a_write_unknown_and_a_read_not(database: Database, write: bool) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the driver has an error")

    def work(session: Session) -> None:
        session.execute(text("SELECT 1"))

    event.listen(database.engine, "commit", fail)
    with pytest.raises(DatabaseUnavailable if write else RuntimeError) as caught:
        await database.interact(work, write=write)
    event.remove(database.engine, "commit", fail)
    assert unknown(caught.value) is write


@pytest.fixture
def connected(postgresql: PostgreSQL):
    """A database on PostgreSQL, where sessions can be ended."""
    from twisted.internet import reactor

    url = postgresql.new_database(unique())
    assert manage(["db", "upgrade", "-d", url]) == 0
    database = Database.from_config(reactor, load([], [f"database.connection={url}", "database.timeout_seconds=30"]))
    database.start()
    yield database
    database.stop()


@pytest_twisted.ensureDeferred
async def test_a_connection_lost_before_the_commit_is_a_definite_end(connected: Database) -> None:
    def work(session: Session) -> None:
        add_project(session)
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(DatabaseUnavailable) as caught:
        await connected.interact(work)
    assert not unknown(caught.value) and await count(connected) == 0


def at_commit(database: Database, statement: str) -> None:
    """Have the database do something when a transaction with a new project is committed."""
    with database.engine.begin() as connection:
        connection.execute(
            text(
                f"CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN {statement}; RETURN NULL; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON projects DEFERRABLE INITIALLY "
                "DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit()"
            )
        )


@pytest.mark.parametrize(
    ("statement", "error", "expected"),
    [
        ("PERFORM pg_terminate_backend(pg_backend_pid())", DatabaseUnavailable, True),
        ("RAISE EXCEPTION USING ERRCODE = '25006'", DatabaseUnavailable, False),
        ("RAISE EXCEPTION USING ERRCODE = 'XX000'", DatabaseUnavailable, True),
        ("RAISE EXCEPTION USING ERRCODE = '23503'", IntegrityError, False),
        ("RAISE EXCEPTION USING ERRCODE = '40001'", DatabaseUnavailable, False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_commit_that_fails_is_unknown_unless_the_database_says_that_it_was_rolled_back(
    connected: Database, statement: str, error: type[Exception], expected: bool
) -> None:
    at_commit(connected, statement)
    with pytest.raises(error) as caught:
        await connected.interact(add_project)
    assert unknown(caught.value) is expected
