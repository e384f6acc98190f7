"""Running work in transactions, with retries. Everything here blocks, and runs in a database's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

import attrs
from sqlalchemy import Connection, exc
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from twisted.logger import Logger

from barbtx.model.database_errors import DatabaseProblem, ErrorKind, classify
from barbtx.model.database_failures import DatabaseUnavailable, DriverError, bad_value, error_for, unavailable
from barbtx.model.transaction import ConcurrentChange, TransactionState

T = TypeVar("T")

log = Logger()


@attrs.frozen
class Transactions:
    """Runs transactions on the connections of an engine.

    :ivar max_retries: retries of one transaction.
    :ivar report: called after a transaction, with whether the connection was lost.
    """

    engine: Engine
    max_retries: int
    report: Callable[[bool], None]

    def write(self, work: Callable[[Session], T], state: TransactionState) -> T:
        """Run work that may change the database in a transaction.

        :raises TransactionAbandoned: the caller no longer waits; the transaction was rolled back.
        :raises BadRequest: the database cannot store a value.
        :raises DatabaseUnavailable: the database is down or too slow.
        """

        def attempt() -> T:
            with Session(self.engine, expire_on_commit=False) as session:
                session.connection(execution_options={"barbtx_write": True})
                result = work(session)
                session.flush()
                state.begin_commit()
                session.commit()
            return result

        return self.run(attempt, state)

    def read(self, work: Callable[[Session], T], state: TransactionState) -> T:
        """Run work that changes nothing in a transaction. It raises what :meth:`write` raises."""

        def attempt() -> T:
            with Session(self.engine, expire_on_commit=False) as session:
                result = work(session)
                session.commit()
            return result

        return self.run(attempt, state)

    def query(self, query: Callable[[Connection], T], state: TransactionState) -> T:
        """Like :meth:`read`, for work that needs no session; it takes half of the time."""

        def attempt() -> T:
            with self.engine.connect() as connection:
                return query(connection)

        return self.run(attempt, state)

    def run(self, attempt: Callable[[], T], state: TransactionState) -> T:
        """Run a function that begins and commits a transaction until it succeeds, or until a retry is no use.

        It raises what :meth:`write` raises.
        """
        attempts = 0
        while True:
            state.begin_attempt()
            try:
                result = attempt()
            except ConcurrentChange:
                attempts += 1
                if attempts > self.max_retries:
                    raise unavailable("concurrent transactions keep deleting rows that this one needs") from None
            except exc.DBAPIError as error:
                problem = classify(error.orig)
                attempts += 1
                if attempts > self._retries_after(problem, error.connection_invalidated, state.committing):
                    if problem.kind is ErrorKind.LOST:
                        self.report(True)
                    _raise(problem, error, state.committing)
            except exc.TimeoutError:
                raise unavailable("no free connection") from None
            except (UnicodeEncodeError, OverflowError):
                # The driver cannot encode the value.
                raise bad_value() from None
            except Exception:
                if not state.committing:
                    raise
                log.failure("a commit failed with an unexpected error")
                raise DatabaseUnavailable("the commit failed", outcome_unknown=True) from None
            else:
                self.report(False)
                return result

    def _retries_after(self, problem: DatabaseProblem, invalidated: bool, committing: bool) -> int:
        """How often a transaction is retried after a problem."""
        if problem.kind in (ErrorKind.CONFLICT, ErrorKind.INTEGRITY):
            return self.max_retries
        if not invalidated or problem.outcome_unknown(committing):
            return 0
        # A new connection helps only if it leads to another server, and then the first one does.
        return min(self.max_retries, 1) if problem.kind is ErrorKind.READ_ONLY else self.max_retries


def _raise(problem: DatabaseProblem, error: exc.DBAPIError, committing: bool) -> NoReturn:
    """Raise the exception that callers get for a problem; see :func:`error_for`.

    :raises DBAPIError: it is a bug in barbtx; the exception does not have the driver's text.
    """
    known = error_for(problem, committing=committing)
    if isinstance(known, DatabaseUnavailable):
        known.log()
    if known is not None:
        raise known from None
    masked = type(error)(None, None, DriverError(str(problem)), hide_parameters=True)
    raise masked.with_traceback(error.__traceback__) from None
