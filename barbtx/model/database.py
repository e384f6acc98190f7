"""The database: an engine, threads of its own, and :meth:`Database.interact`, through which all its work goes.

SQLAlchemy's synchronous API is called in a bounded thread pool that belongs to the database alone. A piece of work is a
plain function of a session; it runs in one transaction and one thread hop. Its result must be plain data, since the
session is gone when it arrives in the reactor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import attrs
from oslo_config import cfg
from sqlalchemy import exc
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from barbtx import activity
from barbtx.errors import BadRequest, ServiceUnavailable
from barbtx.model.access_gate import AccessGate
from barbtx.model.admission import Admission, Lane, QueueFull, Workload
from barbtx.model.database_errors import UNAVAILABLE, DatabaseProblem, ErrorKind, classify
from barbtx.model.engine import make_engine
from barbtx.threads import end_pools

T = TypeVar("T")

OPTIONS = {
    "database": [
        cfg.StrOpt(
            "connection",
            default="sqlite:///barbtx.sqlite",
            secret=True,
            help="SQLAlchemy URL: sqlite:///file, postgresql://… (psycopg 3) or mysql://… (PyMySQL). It must be set: "
            "neither processes nor barbtx-manage use the default.",
        ),
        cfg.IntOpt(
            "max_pool_size",
            default=12,
            min=1,
            max=256,
            help="Connections to the database, and threads that use them, per process. One group of tables may "
            "hold half of them, its lists and its writes a quarter each.",
        ),
        cfg.IntOpt(
            "max_waiting",
            default=1000,
            min=1,
            help="Transactions that may run or wait for a thread; further ones are refused (503), first those "
            "of whom the most wait.",
        ),
        cfg.FloatOpt(
            "timeout_seconds",
            default=1.8,
            min=0.1,
            help="Longest time that one transaction may take, waiting included, before it is given up (503).",
        ),
        cfg.IntOpt(
            "max_retries",
            default=3,
            min=0,
            max=20,
            help="How often a transaction is run again after a deadlock or on a connection found dead.",
        ),
    ],
}

log = Logger()


class DatabaseUnavailable(ServiceUnavailable):
    """The database is down, too slow, read-only or has no room.

    :ivar outcome_unknown: whether the transaction may have been committed all the same: the connection was lost, or the
        time was over, while COMMIT was under way. If it is false, nothing was changed and nothing will be.
    """

    def __init__(self, *, outcome_unknown: bool = False, **debug: object) -> None:
        super().__init__("The database cannot be reached at the moment; please try again", **debug)
        self.outcome_unknown = outcome_unknown


class CancelledInCommit(CancelledError):
    """The caller no longer waits for a transaction whose commit had begun."""

    outcome_unknown = True


class DriverError(Exception):
    """Stands for a driver's error in what is raised and logged: the driver's own text may quote values."""


@attrs.define(eq=False)
class _Ticket:
    """A transaction that somebody waits for, or no longer does.

    The reactor may give it up while a thread is about to commit it; the lock makes sure that only one of them does.
    """

    abandoned: bool = False
    committing: bool = False
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def abandon(self) -> bool:
        """Give it up; whether it is too late to be sure that it is rolled back."""
        with self._lock:
            self.abandoned = True
            return self.committing

    def commit(self) -> None:
        """To be called right before COMMIT.

        :raises Abandoned: it was given up.
        """
        with self._lock:
            if self.abandoned:
                raise TransactionAbandoned
            self.committing = True

    def begin(self) -> None:
        """To be called before each attempt.

        :raises Abandoned: it was given up.
        """
        with self._lock:
            if self.abandoned:
                raise TransactionAbandoned
            self.committing = False


class ConcurrentChange(Exception):
    """Another transaction removed what this one relies on; work that raises it is run again from the start."""


class TransactionAbandoned(Exception):
    """Nobody waits for this transaction any more; it was rolled back."""


@attrs.frozen
class Database:
    """An engine and the threads that use it.

    :ivar threads: all of them; what they work on is for ``admission`` to say.
    :ivar admission: shares the threads among kinds of work. SQLite, which has one writer at a time, is given one write
        at a time, so that writers queue in order instead of fighting for a lock.
    :ivar gate: who may use the database; everybody, unless a start check has closed it.
    """

    reactor: IReactorFromThreads | IReactorTime
    engine: Engine
    threads: ThreadPool
    admission: Admission
    timeout: float
    max_retries: int
    gate: AccessGate = attrs.field(factory=AccessGate, init=False, repr=False)
    _lost: threading.Event = attrs.field(factory=threading.Event, init=False, repr=False)

    @classmethod
    def from_config(cls, reactor: Any, conf: cfg.ConfigOpts) -> Database:
        """Make the engine that ``[database]`` describes; no connection is made yet.

        :raises ConfigurationError: the URL is no database URL.
        """
        options = conf.database
        engine = make_engine(options.connection, options.max_pool_size, options.timeout_seconds)
        writers = 1 if engine.dialect.name == "sqlite" else None
        return cls(
            reactor,
            engine,
            ThreadPool(0, options.max_pool_size, name="database"),
            Admission(options.max_pool_size, options.max_waiting, writers),
            options.timeout_seconds,
            options.max_retries,
        )

    def start(self) -> None:
        """Start the threads; must be called before :meth:`interact`."""
        self.threads.start()

    def stop(self, seconds: float = 30.0) -> bool:
        """Let the transactions under way end, then close every connection. It blocks.

        :param seconds: for which it waits, at most.
        :return: whether all of them have ended; those that have not keep their threads and connections.
        """
        ended = end_pools((self.threads,), seconds)
        self.engine.dispose()
        return ended

    def gauges(self) -> dict[str, object]:
        """What is going on, for the report to an operator."""
        return {
            "transactions": f"{self.admission.running} at work, {self.admission.waiting} waiting",
            "threads": f"{len(self.threads.working)} of {self.threads.workers} at work",
            "connections": self.engine.pool.status(),
        }

    def interact(
        self, work: Callable[[Session], T], *, write: bool = True, listing: bool = False, tables: str = "general"
    ) -> Deferred[T]:
        """Run work in one transaction, in a thread of the database.

        Work may be run again from the start, after a deadlock, on a connection that turned out to be dead, or if a
        constraint fails: other transactions may have made or removed what it had looked for. It must have no effect
        but through its session, other than notes that are right however the transaction ends. Cancelling the Deferred
        gives the transaction up; unless its commit is already under way it is rolled back. An error has changed
        nothing, unless its ``outcome_unknown`` is true.

        :param work: a blocking function of a session that returns plain data.
        :param write: whether it may change anything.
        :param listing: whether, if it only reads, it may read many rows.
        :param tables: the group of tables that it works on; repositories have it from :func:`in_tables`.
        :raises BadRequest: (asynchronously) the database does not take a value.
        :raises DatabaseUnavailable: (asynchronously) the database is down, too slow or has too many waiting.
        """
        if not self.gate.admits():
            # Whoever closed the gate says in the log why.
            return fail(DatabaseUnavailable(cause="it has not been checked yet"))
        ticket = _Ticket()
        kind = Workload.WRITE if write else Workload.LIST if listing else Workload.READ
        lane = Lane(tables, kind, activity.current().project_id)
        run = activity.bind(self._run)

        def give_up() -> bool:
            self.admission.withdraw(place)
            return ticket.abandon()

        def cancel(waiting: Deferred[T]) -> None:
            if give_up():
                waiting.errback(CancelledInCommit())

        def displaced() -> None:
            result.errback(_unavailable("too many transactions are waiting"))

        def too_late() -> None:
            # Whether it waited for its turn or the database was silent are different matters to an operator.
            cause = "no answer in time" if place.running else "no turn in time; others take too long"
            self._lost.set()
            result.errback(_unavailable(cause, outcome_unknown=give_up()))

        def begin() -> None:
            self.threads.callInThreadWithCallback(
                lambda succeeded, outcome: self.reactor.callFromThread(done, succeeded, outcome),
                run,
                work,
                write,
                ticket,
            )

        def done(succeeded: bool, outcome: T | Failure) -> None:
            self.admission.leave(place)
            if ticket.abandoned or result.called:
                return
            result.callback(outcome) if succeeded else result.errback(outcome)

        def stop_clock(outcome: T | Failure) -> T | Failure:
            if deadline.active():
                deadline.cancel()
            return outcome

        try:
            place = self.admission.enter(lane, begin, activity.bind(displaced))
        except QueueFull:
            return fail(_unavailable("too many transactions are waiting"))
        result: Deferred[T] = Deferred(cancel)
        deadline = self.reactor.callLater(self.timeout, activity.bind(too_late))
        return result.addBoth(stop_clock)

    def _run(self, work: Callable[[Session], T], write: bool, ticket: _Ticket) -> T:
        attempt = 0
        while True:
            ticket.begin()
            try:
                with Session(self.engine, expire_on_commit=False) as session:
                    if write:
                        session.connection(execution_options={"barbtx_write": True})
                    result = work(session)
                    session.flush()
                    if write:
                        ticket.commit()
                    session.commit()
                if self._lost.is_set():
                    self._lost.clear()
                    log.info("the database answers again", log_outage=True)
                return result
            except ConcurrentChange:
                attempt += 1
                if attempt > self.max_retries:
                    raise _unavailable("other transactions keep removing what it relies on") from None
            except exc.DBAPIError as error:
                problem = classify(error.orig)
                attempt += 1
                if attempt > self._tries_again(problem, error.connection_invalidated, ticket.committing):
                    if problem.kind is ErrorKind.LOST:
                        self._lost.set()
                    _raise(problem, error, ticket.committing)
            except exc.TimeoutError:
                raise _unavailable("no free connection") from None
            except (UnicodeEncodeError, OverflowError):
                # The driver cannot even send it.
                raise _bad_value() from None
            except Exception:
                if not ticket.committing:
                    raise
                log.failure("a commit failed in an unexpected way")
                raise DatabaseUnavailable(outcome_unknown=True) from None

    def _tries_again(self, problem: DatabaseProblem, invalidated: bool, committing: bool) -> int:
        """How often a transaction is run again after a problem."""
        if problem.kind in (ErrorKind.CONFLICT, ErrorKind.INTEGRITY):
            return self.max_retries
        if not invalidated or problem.outcome_unknown(committing):
            return 0
        # A new connection to the same read-only server does not help; one that leads to another server does at once.
        return min(self.max_retries, 1) if problem.kind is ErrorKind.READ_ONLY else self.max_retries


@attrs.frozen
class Tables:
    """A database as those see it that work on one group of its tables."""

    database: Database
    name: str

    def interact(self, work: Callable[[Session], T], *, write: bool = True, listing: bool = False) -> Deferred[T]:
        """As :meth:`Database.interact`."""
        return self.database.interact(work, write=write, listing=listing, tables=self.name)


def in_tables(name: str) -> Callable[[Database | Tables], Tables]:
    """A converter for the database of a repository: its transactions count as work on a group of tables."""
    return lambda database: Tables(database.database if isinstance(database, Tables) else database, name)


def _raise(problem: DatabaseProblem, error: exc.DBAPIError, committing: bool) -> NoReturn:
    """Raise what a problem is to callers.

    :raises BadRequest: the database does not take a value.
    :raises DatabaseUnavailable: the transaction may succeed later.
    :raises DBAPIError: anything else, of the class of the original, without what the driver said of values.
    """
    if problem.kind is ErrorKind.BAD_VALUE:
        log.info("the database does not take a value: {cause}", cause=str(problem))
        raise _bad_value() from None
    if problem.kind in UNAVAILABLE:
        raise _unavailable(
            str(problem),
            outcome_unknown=problem.outcome_unknown(committing),
            level=LogLevel.error if problem.kind is ErrorKind.REFUSED else LogLevel.warn,
        ) from None
    masked = type(error)(None, None, DriverError(str(problem)), hide_parameters=True)
    raise masked.with_traceback(error.__traceback__) from None


def _unavailable(cause: str, *, outcome_unknown: bool = False, level: Any = LogLevel.warn) -> DatabaseUnavailable:
    """The error of a transaction that may succeed later, of which the log is told."""
    log.emit(level, "database unavailable: {cause}", cause=cause, log_outage=True)
    return DatabaseUnavailable(outcome_unknown=outcome_unknown, cause=cause)


def _bad_value() -> BadRequest:
    return BadRequest("A value is too long, too large or has characters that cannot be kept.")
