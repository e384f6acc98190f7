"""Writes that share a transaction on SQLite: what one of them, or the database, can do to the others."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import event, exc, insert, select, text
from sqlalchemy.orm import Session
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.threads import deferToThread

from barbtx import activity
from barbtx.activity import Activity
from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.errors import BadRequest, NotFound
from barbtx.model import write_groups
from barbtx.model.database import Database
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.models import Project
from barbtx.model.transaction import ConcurrentChange
from tests.functional.conftest import NOW
from tests.functional.test_commit_outcomes import Held, unknown

Work = Callable[[Session], Any]


def adding(name: str, *then: Work) -> Work:
    """Work that adds a project and then does something else; it returns the name."""

    def work(session: Session) -> str:
        session.execute(insert(Project).values(id=name, external_id=name, created_at=NOW))
        for step in then:
            step(session)
        return name

    return work


class World:
    """A database, and its commits.

    :ivar commits: counts commits, except those of :meth:`names`.
    """

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        from twisted.internet import reactor

        self.path = path / "barbtx.sqlite"
        url = f"sqlite:///{self.path}"
        assert manage(["db", "upgrade", "-d", url]) == 0
        self.database = Database.from_config(
            reactor, load([], [f"database.connection={url}", f"database.timeout_seconds={timeout}"])
        )
        self.commits = 0
        event.listen(self.database.engine, "commit", self._commit)
        self.database.start()

    def _commit(self, _: object) -> None:
        self.commits += 1

    def names(self) -> set[str]:
        """The projects that are stored."""
        with sqlite3.connect(self.path) as connection:
            return {name for (name,) in connection.execute("SELECT external_id FROM projects")}

    async def group(self, *works: Work) -> list[Deferred[Any]]:
        """Start writes that run in one group: those that wait while another write runs, which has ended then."""
        held = Held()
        first = self.database.interact(lambda _: held())
        await held.reached
        writes = [self.database.interact(work) for work in works]
        self.commits = 0
        held.drop()
        await first
        return writes


@pytest.fixture(autouse=True)
def _enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are not divided because this machine is slow."""
    monkeypatch.setattr(write_groups, "_SECONDS", 60)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.database.stop()


async def outcomes(writes: list[Deferred[Any]]) -> list[Any]:
    """The results, or the exceptions."""
    found = await DeferredList(writes, consumeErrors=True)
    return [getattr(result, "value", result) for _, result in found]


@pytest_twisted.ensureDeferred
async def test_writes_that_wait_share_one_commit_and_each_has_its_result(world: World) -> None:
    names = [f"p{number}" for number in range(20)]
    assert await outcomes(await world.group(*map(adding, names))) == names
    # One commit is that of the write for which they waited.
    assert world.names() == set(names) and world.commits <= 2


def raising(error: Exception) -> Work:
    def work(_: Session) -> None:
        raise error

    return work


def violating(session: Session) -> None:
    session.execute(insert(Project).values(id="again", external_id="good", created_at=NOW))


def unencodable(session: Session) -> None:
    session.execute(insert(Project).values(id="x", external_id="\ud800", created_at=NOW))


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (raising(NotFound("It is not there.")), NotFound),
        (raising(ValueError("a bug")), ValueError),
        (raising(ConcurrentChange()), DatabaseUnavailable),
        (violating, exc.IntegrityError),
        (unencodable, BadRequest),
        (lambda session: session.execute(text("SELECT 1 FROM nowhere")), DatabaseUnavailable),
    ],
    ids=["not found", "bug", "concurrent change", "constraint", "value", "table"],
)
@pytest_twisted.ensureDeferred
async def test_one_that_fails_changes_nothing_and_takes_no_other_with_it(
    world: World, step: Work, error: type[Exception]
) -> None:
    found = await outcomes(await world.group(adding("good"), adding("bad", step), adding("fine")))
    assert found[0] == "good" and found[2] == "fine"
    assert isinstance(found[1], error) and not unknown(found[1])
    assert world.names() == {"good", "fine"}


@pytest_twisted.ensureDeferred
async def test_what_one_does_after_an_error_that_it_handles_is_kept(world: World) -> None:
    def handle(session: Session) -> None:
        with pytest.raises(exc.IntegrityError), session.begin_nested():
            violating(session)

    assert await outcomes(await world.group(adding("good"), adding("other", handle))) == ["good", "other"]
    assert world.names() == {"good", "other"}


@pytest_twisted.ensureDeferred
async def test_each_runs_as_part_of_its_own_activity(world: World) -> None:
    def note(_: Session) -> str | None:
        return activity.current().request_id

    held = Held()
    first = world.database.interact(lambda _: held())
    await held.reached
    writes = [activity.run(Activity(request_id=f"r{n}"), world.database.interact, note) for n in range(3)]
    held.drop()
    await first
    assert await outcomes(writes) == ["r0", "r1", "r2"]


@pytest_twisted.ensureDeferred
async def test_a_slow_one_does_not_hold_up_those_before_it_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_groups, "_SECONDS", -1)
    held = Held()
    first, slow, last = await world.group(adding("first"), adding("slow", held), adding("last"))
    await held.reached
    assert await first == "first" and world.names() == {"first"}
    held.drop()
    assert await outcomes([slow, last]) == ["slow", "last"]


@pytest_twisted.ensureDeferred
async def test_one_that_is_cancelled_after_it_ran_is_rolled_back_and_the_others_are_not(world: World) -> None:
    held = Held()
    early, slow, late, last = await world.group(
        adding("early"), adding("slow", held), adding("late"), adding("last", raising(NotFound("No.")))
    )
    await held.reached
    early.cancel()
    late.cancel()
    held.drop()
    found = await outcomes([early, slow, late, last])
    assert found[1] == "slow" and isinstance(found[3], NotFound)
    for problem in (found[0], found[2]):
        assert isinstance(problem, CancelledError) and not unknown(problem)
    assert world.names() == {"slow"}


@pytest_twisted.ensureDeferred
async def test_after_one_has_left_the_quick_ones_do_not_wait_for_a_slow_one_again(world: World) -> None:
    runs = [Held(), Held()]
    remaining = iter(runs)
    quick, gone, slow, last = await world.group(
        adding("quick"), adding("gone"), adding("slow", lambda _: next(remaining)()), adding("last")
    )
    await runs[0].reached
    gone.cancel()
    runs[0].drop()
    await runs[1].reached
    assert await quick == "quick" and world.names() == {"quick"}
    runs[1].drop()
    assert await outcomes([slow, last]) == ["slow", "last"]
    assert isinstance((await outcomes([gone]))[0], CancelledError) and world.names() == {"quick", "slow", "last"}


@pytest_twisted.ensureDeferred
async def test_who_leaves_during_the_commit_does_not_know_its_outcome(world: World) -> None:
    held = Held()
    event.listen(world.database.engine, "commit", lambda _: world.commits == 2 and held())
    writes = await world.group(adding("a"), adding("b"))
    await held.reached
    writes[0].cancel()
    held.drop()
    found = await outcomes(writes)
    assert unknown(found[0]) and found[1] == "b" and world.names() == {"a", "b"}


def failure(name: str) -> exc.DBAPIError:
    """What SQLAlchemy raises for an error of SQLite."""
    error = sqlite3.OperationalError("failed on purpose")
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
    return exc.OperationalError(None, None, error)


@pytest.mark.parametrize(
    ("error", "expected"), [(failure("SQLITE_FULL"), False), (failure("SQLITE_IOERR"), True), (RuntimeError(), True)]
)
@pytest_twisted.ensureDeferred
async def test_a_commit_that_fails_is_repeated_alone_unless_its_outcome_is_unknown(
    world: World, error: Exception, expected: bool
) -> None:
    def fail(_: object) -> None:
        if world.commits == 2:
            raise error

    event.listen(world.database.engine, "commit", fail)
    found = await outcomes(
        await world.group(adding("a"), adding("bad", raising(NotFound("It is not there."))), adding("b"))
    )
    assert isinstance(found[1], NotFound)
    if expected:
        assert all(isinstance(problem, DatabaseUnavailable) and problem.outcome_unknown for problem in found[::2])
        assert world.names() == set()
    else:
        assert found[::2] == ["a", "b"] and world.names() == {"a", "b"}


@pytest_twisted.ensureDeferred
async def test_one_for_which_the_disk_has_no_room_fails_alone(world: World) -> None:
    def big(session: Session) -> None:
        session.execute(text("PRAGMA max_page_count = 200"))
        session.execute(text("CREATE TABLE big AS SELECT zeroblob(4000000)"))

    def small(session: Session) -> None:
        session.execute(text("PRAGMA max_page_count = 100000"))

    found = await outcomes(await world.group(adding("a"), adding("big", big), adding("b", small)))
    assert found[::2] == ["a", "b"] and world.names() == {"a", "b"}
    assert isinstance(found[1], DatabaseUnavailable) and "SQLITE_FULL" in found[1].cause


@pytest_twisted.ensureDeferred
async def test_if_sqlite_rolls_the_whole_transaction_back_each_runs_again(world: World) -> None:
    def violate(session: Session) -> None:
        session.execute(text("INSERT OR ROLLBACK INTO projects SELECT 'other', external_id, created_at FROM projects"))

    found = await outcomes(await world.group(adding("a"), adding("bad", violate), adding("b"), adding("c")))
    assert isinstance(found[1], exc.IntegrityError)
    assert [found[0], *found[2:]] == ["a", "b", "c"] and world.names() == {"a", "b", "c"}


@pytest_twisted.ensureDeferred
async def test_while_another_process_writes_nothing_is_changed_and_afterwards_everything_works(tmp_path: Path) -> None:
    world = World(tmp_path, timeout=0.5)
    other = sqlite3.connect(world.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    found = await outcomes([world.database.interact(adding(f"p{number}")) for number in range(40)])
    assert all(isinstance(problem, DatabaseUnavailable) and not problem.outcome_unknown for problem in found)
    other.execute("COMMIT")
    # The thread that waits for the lock may get it now; what it has to write was given up.
    assert await outcomes([world.database.interact(adding(name), timeout=30) for name in ("x", "y", "z")]) == [
        "x",
        "y",
        "z",
    ]
    assert world.names() == {"x", "y", "z"}
    world.database.stop()


@pytest_twisted.ensureDeferred
async def test_a_group_that_runs_at_shutdown_is_completed(tmp_path: Path) -> None:
    world = World(tmp_path)
    held = Held()
    writes = await world.group(adding("a"), adding("b", held), adding("c"))
    await held.reached
    stopping = deferToThread(world.database.stop)
    held.drop()
    assert await outcomes(writes) == ["a", "b", "c"] and await stopping is True
    assert world.names() == {"a", "b", "c"}


@pytest_twisted.ensureDeferred
async def test_reads_see_all_of_a_group_or_nothing(world: World) -> None:
    held = Held()
    writes = await world.group(adding("a"), adding("b", held), adding("c"))
    await held.reached

    def names(session: Session) -> set[str]:
        return set(session.scalars(select(Project.external_id)))

    assert await world.database.interact(names, write=False) == set()
    held.drop()
    await outcomes(writes)
    assert await world.database.interact(names, write=False) == {"a", "b", "c"}


@pytest_twisted.ensureDeferred
async def test_a_file_that_disappears_fails_each_of_a_group(world: World) -> None:
    world.database.engine.dispose()
    os.truncate(world.path, 0)
    for suffix in ("-wal", "-shm"):
        Path(f"{world.path}{suffix}").unlink(missing_ok=True)
    found = await outcomes([world.database.interact(adding(f"p{number}")) for number in range(5)])
    assert all(isinstance(problem, DatabaseUnavailable) and not problem.outcome_unknown for problem in found)
