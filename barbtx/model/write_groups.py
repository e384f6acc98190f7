"""Writes that share a transaction, and so a commit, on SQLite, which has one writer at a time.

When the turn of a write comes, all that wait run in the same transaction, each in a savepoint. One that fails changes
nothing and runs again in a transaction of its own, which decides its outcome. If the transaction as a whole fails, or
if the caller of one that has run leaves, all of them do, unless its outcome is unknown.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import attrs
from sqlalchemy import Connection, exc
from sqlalchemy.orm import Session
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from barbtx import activity
from barbtx.model.admission import Admission
from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.transaction import ConcurrentChange, TransactionAbandoned, TransactionState
from barbtx.model.transactions import Transactions
from barbtx.reactor import IReactor

#: The result of a write, or the failure.
Outcome: TypeAlias = Any

# Maximum number of writes in a group.
_SIZE = 32
# Seconds after which a transaction begins no further write of its group, so that a slow one delays few others.
_SECONDS = 0.1
# What the database, and not the caller, has to do with.
_TECHNICAL = (exc.SQLAlchemyError, ConcurrentChange, UnicodeEncodeError, OverflowError)


class TransactionLost(Exception):
    """SQLite has rolled back the transaction because of an error of one write."""


class _GroupedWrite:
    """A write that runs in a group; see :meth:`WriteGroups.prepare`."""

    def __init__(
        self,
        work: Callable[[Session], Any],
        state: TransactionState,
        done: Callable[[Outcome], None],
        leave: Callable[[], None],
    ) -> None:
        self.state = state
        self.done = done
        self.leave = leave
        self._work = work
        self._in_activity = activity.bind(lambda function, *arguments: function(*arguments))

    def attempt(self, connection: Connection) -> Outcome:
        """Run in a savepoint. If the outcome is a failure, or after an exception, nothing that the work did remains.

        :raises Exception: the database refused something.
        """
        self.state.begin_attempt()
        with Session(connection, expire_on_commit=False, join_transaction_mode="create_savepoint") as session:
            try:
                result = self._in_activity(self._work, session)
            except _TECHNICAL:
                raise
            except Exception:
                return Failure()
            session.commit()
        return result

    def run_alone(self, transactions: Transactions) -> Outcome:
        """Run in a transaction of its own."""
        try:
            return self._in_activity(transactions.write, self._work, self.state)
        except Exception:
            return Failure()

    def fail(self, make: Callable[[], Exception]) -> Failure:
        """Return a failure whose exception is made, and so logged, as part of the write's activity."""
        return Failure(self._in_activity(make))


@attrs.define(eq=False)
class WriteGroups:
    """Runs the writes that admission control starts. All methods must be called in the reactor's thread."""

    reactor: IReactor
    threads: ThreadPool
    admission: Admission
    transactions: Transactions
    _next: list[_GroupedWrite] = attrs.field(factory=list, init=False)

    def prepare(
        self,
        work: Callable[[Session], Any],
        state: TransactionState,
        done: Callable[[Outcome], None],
        leave: Callable[[], None],
    ) -> Callable[[], None]:
        """Return a function that starts a write, together with those that wait when the reactor has read its input.

        :param work: see :meth:`~barbtx.model.database.Database.interact`. It runs as part of the current activity.
        :param done: called in the reactor's thread with the outcome, unless the write was abandoned.
        :param leave: called in the reactor's thread when the group has ended.
        """
        return partial(self._begin, _GroupedWrite(work, state, done, leave))

    def _begin(self, write: _GroupedWrite) -> None:
        self._next.append(write)
        if len(self._next) == 1:
            self.reactor.callFromThread(self._start)

    def _start(self) -> None:
        # This begins other writes.
        self.admission.join(_SIZE - 1)
        group, self._next = self._next, []

        def ended(succeeded: bool, result: object) -> None:
            self.reactor.callFromThread(_end, group, None if succeeded else result)

        self.threads.callInThreadWithCallback(ended, _Group(self.reactor, self.transactions, deque(group)).run)


def _end(group: Sequence[_GroupedWrite], failure: object) -> None:
    for write in group:
        write.leave()
        if failure is not None:
            write.done(failure)


class _SharedTransaction(TransactionState):
    """The writes that run in one transaction, and their outcomes.

    :ivar begun: how many have begun.
    :ivar succeeded: those whose changes are to be committed, with their results.
    :ivar refused: those that found that what they should do cannot be done, with their failures.
    :ivar failed: those whose outcome the database has to decide again.
    """

    def begin_attempt(self) -> None:
        super().begin_attempt()
        self.begun = 0
        self.succeeded: list[tuple[_GroupedWrite, Outcome]] = []
        self.refused: list[tuple[_GroupedWrite, Outcome]] = []
        self.failed: list[_GroupedWrite] = []

    def begin_commit(self) -> None:
        for write, _ in self.succeeded:
            write.state.begin_commit()
        super().begin_commit()

    def attempt(self, write: _GroupedWrite, connection: Connection) -> None:
        self.begun += 1
        try:
            outcome = write.attempt(connection)
        except TransactionAbandoned:
            return
        except Exception:
            self.failed.append(write)
        else:
            (self.refused if isinstance(outcome, Failure) else self.succeeded).append((write, outcome))


@attrs.define(eq=False)
class _Group:
    """A group of writes, in a thread of the database.

    :ivar waiting: those that have no outcome.
    """

    reactor: IReactor
    transactions: Transactions
    waiting: deque[_GroupedWrite]

    def run(self) -> None:
        """Run all writes."""
        while len(self.waiting) > 1:
            self._run_together(_SharedTransaction())
        self._run_alone(self.waiting)

    def _run_together(self, shared: _SharedTransaction) -> None:
        """Run writes in one transaction, as many as the time allows."""
        try:
            self.transactions.run(partial(self._attempt, shared), shared)
        except TransactionAbandoned:
            # One was abandoned after it had run. Only other transactions can leave it out. If it were one for all that
            # are left, the quick ones would wait a second time for the slow one that may be the reason.
            failed: Iterable[_GroupedWrite] = self._take(len(self.waiting))
        except DatabaseUnavailable as error:
            if error.outcome_unknown:
                self._answer((write, write.fail(error.renewed)) for write, _ in shared.succeeded)
                unknown = {write for write, _ in shared.succeeded}
                self.waiting = deque(write for write in self.waiting if write not in unknown)
            failed = self._take(len(self.waiting))
        except Exception:
            failed = self._take(len(self.waiting))
        else:
            self._take(shared.begun)
            self._answer([*shared.succeeded, *shared.refused])
            failed = shared.failed
        self._run_alone(failed)

    def _attempt(self, shared: _SharedTransaction) -> None:
        with self.transactions.engine.connect() as connection:
            connection.execution_options(barbtx_write=True)
            transaction = connection.begin()
            end = time.monotonic() + _SECONDS
            for write in self.waiting:
                shared.attempt(write, connection)
                if connection.invalidated or not _is_in_transaction(connection):
                    raise TransactionLost
                if time.monotonic() > end:
                    break
            shared.begin_commit()
            transaction.commit()

    def _take(self, number: int) -> list[_GroupedWrite]:
        return [self.waiting.popleft() for _ in range(number)]

    def _run_alone(self, writes: Iterable[_GroupedWrite]) -> None:
        for write in writes:
            self._answer([(write, write.run_alone(self.transactions))])

    def _answer(self, outcomes: Iterable[tuple[_GroupedWrite, Outcome]]) -> None:
        """Report outcomes as soon as they are certain."""
        self.reactor.callFromThread(_report, list(outcomes))


def _report(outcomes: Iterable[tuple[_GroupedWrite, Outcome]]) -> None:
    for write, outcome in outcomes:
        write.done(outcome)


def _is_in_transaction(connection: Connection) -> bool:
    """Whether SQLite has a transaction. It rolls back by itself after some errors, and SQLAlchemy does not notice."""
    in_transaction: bool = connection.connection.dbapi_connection.in_transaction  # type: ignore[union-attr]
    return in_transaction
