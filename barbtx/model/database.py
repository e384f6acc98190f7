"""The database: an engine, a thread pool, and :meth:`Database.interact`, through which every transaction runs.

SQLAlchemy's synchronous API is called in a bounded thread pool that belongs to the database alone. A unit of work is a
plain function of a session; it runs in one transaction on one thread. Its result must be plain data, because the
session is closed when the result arrives in the reactor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, TypeVar

import attrs
from oslo_config import cfg
from sqlalchemy import Connection
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from barbtx import activity
from barbtx.model.access_gate import AccessGate
from barbtx.model.admission import Admission, Lane, QueueFull, Workload
from barbtx.model.database_failures import CancelledInCommit, closed, unavailable
from barbtx.model.engine import make_engine
from barbtx.model.statements import Statements
from barbtx.model.transaction import TransactionState
from barbtx.model.transactions import Transactions
from barbtx.model.write_groups import WriteGroups
from barbtx.reactor import IReactor
from barbtx.threads import end_pools

T = TypeVar("T")

# Prepares a transaction: from its state, a function that takes its outcome, and one that takes note of its end, both in
# the reactor's thread, it makes the function that begins it.
_Prepare: TypeAlias = Callable[
    [TransactionState, Callable[[T | Failure], None], Callable[[], None]], Callable[[], None]
]

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
            help="Size of the connection pool, and of the pool of threads that use it, per process. One group of "
            "tables may use up to half of the connections, its lists and its writes up to a quarter each.",
        ),
        cfg.IntOpt(
            "max_waiting",
            default=1000,
            min=1,
            help="Maximum number of transactions that run or wait for a thread. If it is reached, transactions are "
            "refused (503), first those of the group of tables and project that has the most waiting.",
        ),
        cfg.FloatOpt(
            "timeout_seconds",
            default=1.8,
            min=0.1,
            help="Timeout of a transaction in seconds, including the time that it waits for a thread (503).",
        ),
        cfg.BoolOpt(
            "pipelines",
            default=True,
            help="On PostgreSQL, send frequent statements without threads, in libpq's pipeline mode, so that "
            "concurrent requests share a round trip and a commit. A process has up to seven more connections. Set it "
            "to false behind a pooler that gives each transaction another connection; no statement is prepared then.",
        ),
        cfg.IntOpt(
            "max_retries",
            default=3,
            min=0,
            max=20,
            help="Maximum number of retries of a transaction after a deadlock or a lost connection.",
        ),
    ],
}

log = Logger()


@attrs.frozen
class Database:
    """An engine and the threads that use it.

    :ivar threads: the threads; ``admission`` decides which transaction gets one.
    :ivar admission: shares the threads among kinds of work. SQLite has one writer at a time, so that it gets one write
        at a time and writers queue in order instead of competing for a lock.
    :ivar timeout: seconds that a transaction may take, including its wait for a thread.
    :ivar max_retries: retries of one transaction.
    :ivar pipelines: whether frequent statements are sent to PostgreSQL through pipelines.
    :ivar gate: refuses transactions while a check at startup keeps it closed.
    """

    reactor: IReactor
    engine: Engine
    threads: ThreadPool
    admission: Admission
    timeout: float
    max_retries: int
    pipelines: bool = False
    gate: AccessGate = attrs.field(factory=AccessGate, init=False, repr=False)
    statements: Statements = attrs.field(init=False, repr=False)
    _transactions: Transactions = attrs.field(init=False, repr=False)
    _groups: WriteGroups | None = attrs.field(init=False, repr=False)
    _lost: threading.Event = attrs.field(factory=threading.Event, init=False, repr=False)

    @statements.default
    def _make_statements(self) -> Statements:
        return Statements(
            self.reactor,
            self.pipelines and self.engine.dialect.name == "postgresql",
            self.engine,
            self.gate,
            self.timeout,
            self.max_retries,
            self.admission.limit,
            self._report,
            self._query,
            self.interact,
        )

    @_transactions.default
    def _make_transactions(self) -> Transactions:
        return Transactions(self.engine, self.max_retries, self._report)

    @_groups.default
    def _make_groups(self) -> WriteGroups | None:
        if self.engine.dialect.name != "sqlite":
            return None
        return WriteGroups(self.reactor, self.threads, self.admission, self._transactions)

    @classmethod
    def from_config(cls, reactor: IReactor, conf: cfg.ConfigOpts) -> Database:
        """Make the engine that ``[database]`` describes, without connecting.

        :raises ConfigurationError: the URL is not a database URL.
        """
        options = conf.database
        engine = make_engine(
            options.connection, options.max_pool_size, options.timeout_seconds, prepares=options.pipelines
        )
        writers = 1 if engine.dialect.name == "sqlite" else None
        return cls(
            reactor,
            engine,
            ThreadPool(0, options.max_pool_size, name="database"),
            Admission(options.max_pool_size, options.max_waiting, writers),
            options.timeout_seconds,
            options.max_retries,
            options.pipelines,
        )

    def start(self) -> None:
        """Start the threads. It must be called before :meth:`interact`."""
        self.threads.start()
        self.statements.threads.start()

    def stop(self, seconds: float = 30.0) -> bool:
        """Wait for the transactions in flight, then close every connection. The call blocks.

        :param seconds: the longest wait.
        :return: whether all transactions have ended; those that have not keep their threads and connections.
        """
        self.reactor.callFromThread(self.statements.close)
        ended = end_pools((self.threads, self.statements.threads), seconds)
        self.engine.dispose()
        return ended

    def gauges(self) -> dict[str, object]:
        """The state of transactions, threads and connections, for the status report."""
        return {
            "transactions": f"{self.admission.running} running, {self.admission.waiting} waiting",
            "threads": f"{len(self.threads.working)} of {self.threads.workers} busy",
            "connections": self._describe_connections(),
            **self.statements.gauges(),
        }

    def _describe_connections(self) -> str:
        pool = self.engine.pool
        if not isinstance(pool, QueuePool):
            return pool.status()
        return (
            f"{pool.checkedin() + pool.checkedout()} open, {pool.checkedout()} in use; size of the pool: {pool.size()}"
        )

    def _report(self, lost: bool) -> None:
        if lost:
            self._lost.set()
        elif self._lost.is_set():
            self._lost.clear()
            log.info("the database responds again", log_outage=True)

    def interact(
        self,
        work: Callable[[Session], T],
        *,
        write: bool = True,
        listing: bool = False,
        tables: str = "general",
        timeout: float | None = None,
    ) -> Deferred[T]:
        """Run work in one transaction, on a thread of the database.

        The work is retried from the start after a deadlock, a lost connection, or a constraint violation: another
        transaction may have created or deleted a row that it looked up. It must therefore have no effects except
        through its session; it may also record facts that hold however the transaction ends. Cancelling the Deferred
        abandons the transaction, which is then rolled back unless its commit has begun. If the Deferred fails, nothing
        was changed, unless the error's ``outcome_unknown`` is true.

        :param work: a blocking function of a session that returns plain data.
        :param write: whether the work may change the database.
        :param listing: whether the work, if it only reads, may read many rows.
        :param tables: the group of tables that the work uses; see :class:`Lane`.
        :param timeout: seconds that the transaction may take; that of the database if not given.
        :raises BadRequest: (asynchronously) the database cannot store a value.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow, or too many transactions wait.
        """
        if not self.gate.admits():
            return fail(closed())
        kind = Workload.WRITE if write else Workload.LIST if listing else Workload.READ
        if self._groups is not None and write:
            prepare: _Prepare[T] = partial(self._groups.prepare, work)
        else:
            run = self._transactions.write if write else self._transactions.read
            prepare = partial(self._prepare, partial(run, work))
        return self._admit(prepare, kind, tables, timeout)

    def _query(self, query: Callable[[Connection], T], tables: str, timeout: float) -> Deferred[T]:
        prepare = partial(self._prepare, partial(self._transactions.query, query))
        return self._admit(prepare, Workload.READ, tables, timeout)

    def _prepare(
        self,
        run: Callable[[TransactionState], T],
        state: TransactionState,
        done: Callable[[T | Failure], None],
        leave: Callable[[], None],
    ) -> Callable[[], None]:
        def ended(outcome: T | Failure) -> None:
            leave()
            done(outcome)

        def report(_succeeded: bool, outcome: T | Failure) -> None:
            self.reactor.callFromThread(ended, outcome)

        return partial(self.threads.callInThreadWithCallback, report, activity.bind(run), state)

    def _admit(self, prepare: _Prepare[T], kind: Workload, tables: str, timeout: float | None) -> Deferred[T]:
        state = TransactionState()
        lane = Lane(tables, kind, activity.current().project_id)

        def abandon() -> bool:
            self.admission.withdraw(ticket)
            return state.abandon()

        def cancel(waiting: Deferred[T]) -> None:
            if abandon():
                waiting.errback(CancelledInCommit())

        def displaced() -> None:
            result.errback(unavailable("too many transactions are waiting"))

        def timed_out() -> None:
            # The log distinguishes an overloaded process from a database that does not respond.
            cause = "no response in time" if ticket.running else "timed out waiting for other transactions"
            self._lost.set()
            result.errback(unavailable(cause, outcome_unknown=abandon()))

        def leave() -> None:
            self.admission.leave(ticket)

        def done(outcome: T | Failure) -> None:
            if state.abandoned or result.called:
                return
            if isinstance(outcome, Failure):
                result.errback(outcome)
            else:
                result.callback(outcome)

        def cancel_timeout(outcome: T | Failure) -> T | Failure:
            if deadline.active():
                deadline.cancel()
            return outcome

        try:
            ticket = self.admission.enter(lane, prepare(state, done, leave), activity.bind(displaced))
        except QueueFull:
            return fail(unavailable("too many transactions are waiting"))
        result: Deferred[T] = Deferred(cancel)
        deadline = self.reactor.callLater(self.timeout if timeout is None else timeout, activity.bind(timed_out))
        return result.addBoth(cancel_timeout)
