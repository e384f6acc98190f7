"""The database: an engine, threads of its own, and :meth:`Database.interact`, through which all its work goes.

SQLAlchemy's synchronous API is called in a bounded thread pool that belongs to the database alone. A piece of work is a
plain function of a session; it runs in one transaction and one thread hop. Its result must be plain data, since the
session is gone when it arrives in the reactor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import attrs
from oslo_config import cfg
from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL, Engine, ExceptionContext, make_url
from sqlalchemy.orm import Session
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from barbtx import activity
from barbtx.errors import BadRequest, ConfigurationError, ServiceUnavailable
from barbtx.model.admission import Admission, Full, Lane, Work
from barbtx.model.database_errors import STALE, UNAVAILABLE, DatabaseProblem, Kind, classify
from barbtx.model.gate import Gate
from barbtx.model.sqlite_permissions import keep_private
from barbtx.threads import end_pools

T = TypeVar("T")

OPTIONS = {
    "database": [
        cfg.StrOpt("connection", default="sqlite:///barbtx.sqlite", secret=True,
                   help="SQLAlchemy URL: sqlite:///file, postgresql://… (psycopg 3) or mysql://… (PyMySQL)."),
        cfg.IntOpt("max_pool_size", default=12, min=1, max=256,
                   help="Connections to the database, and threads that use them, per process. One group of tables may "
                        "hold half of them, its lists and its writes a quarter each."),
        cfg.IntOpt("max_waiting", default=1000, min=1,
                   help="Transactions that may run or wait for a thread; further ones are refused (503), first those of "
                        "whom the most wait."),
        cfg.FloatOpt("timeout_seconds", default=1.8, min=0.1,
                     help="Longest time that one transaction may take, waiting included, before it is given up (503)."),
        cfg.IntOpt("max_retries", default=3, min=0, max=20,
                   help="How often a transaction is run again after a deadlock or on a connection found dead."),
    ],
}

# Seconds for which a connection to a server that says it is read-only is kept: another one may be the primary by then.
_READ_ONLY_SECONDS = 2.0

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
                raise Abandoned
            self.committing = True

    def begin(self) -> None:
        """To be called before each attempt.

        :raises Abandoned: it was given up.
        """
        with self._lock:
            if self.abandoned:
                raise Abandoned
            self.committing = False


class Raced(Exception):
    """Another transaction removed what this one relies on; work that raises it is run again from the start."""


class Abandoned(Exception):
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
    gate: Gate = attrs.field(factory=Gate, init=False, repr=False)
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
            reactor, engine, ThreadPool(0, options.max_pool_size, name="database"),
            Admission(options.max_pool_size, options.max_waiting, writers), options.timeout_seconds, options.max_retries,
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
        return {"transactions": f"{self.admission.running} at work, {self.admission.waiting} waiting",
                "threads": f"{len(self.threads.working)} of {self.threads.workers} at work",
                "connections": self.engine.pool.status()}

    def interact(self, work: Callable[[Session], T], *, write: bool = True, listing: bool = False,
                 tables: str = "general") -> Deferred[T]:
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
        kind = Work.WRITE if write else Work.LIST if listing else Work.READ
        lane = Lane(tables, kind, activity.current().project_id)
        run = activity.carry(self._run)

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
                run, work, write, ticket)

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
            place = self.admission.enter(lane, begin, activity.carry(displaced))
        except Full:
            return fail(_unavailable("too many transactions are waiting"))
        result: Deferred[T] = Deferred(cancel)
        deadline = self.reactor.callLater(self.timeout, activity.carry(too_late))
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
            except Raced:
                attempt += 1
                if attempt > self.max_retries:
                    raise _unavailable("other transactions keep removing what it relies on") from None
            except exc.DBAPIError as error:
                problem = classify(error.orig)
                attempt += 1
                if attempt > self._tries_again(problem, error.connection_invalidated, ticket.committing):
                    if problem.kind is Kind.LOST:
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
        if problem.kind in (Kind.CONFLICT, Kind.INTEGRITY):
            return self.max_retries
        if not invalidated or problem.outcome_unknown(committing):
            return 0
        # A new connection to the same read-only server does not help; one that leads to another server does at once.
        return min(self.max_retries, 1) if problem.kind is Kind.READ_ONLY else self.max_retries


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
    if problem.kind is Kind.BAD_VALUE:
        log.info("the database does not take a value: {cause}", cause=str(problem))
        raise _bad_value() from None
    if problem.kind in UNAVAILABLE:
        raise _unavailable(str(problem), outcome_unknown=problem.outcome_unknown(committing),
                           level=LogLevel.error if problem.kind is Kind.REFUSED else LogLevel.warn) from None
    masked = type(error)(None, None, DriverError(str(problem)), hide_parameters=True)
    raise masked.with_traceback(error.__traceback__) from None


def _unavailable(cause: str, *, outcome_unknown: bool = False, level: Any = LogLevel.warn) -> DatabaseUnavailable:
    """The error of a transaction that may succeed later, of which the log is told."""
    log.emit(level, "database unavailable: {cause}", cause=cause, log_outage=True)
    return DatabaseUnavailable(outcome_unknown=outcome_unknown, cause=cause)


def _bad_value() -> BadRequest:
    return BadRequest("A value is too long, too large or has characters that cannot be kept.")


_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg",
            "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}


def parse_url(url: str) -> URL:
    """A database URL with the driver that barbtx uses.

    :raises ConfigurationError: it is no database URL.
    """
    try:
        parsed = make_url(_spread_hosts(url))
        parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
        # Loads the dialect, and so fails for one that is not there.
        parsed.get_dialect()
        return parsed
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError, ValueError):
        raise ConfigurationError("[database] connection is not a database URL that barbtx can use") from None


def make_engine(url: str, pool_size: int, timeout: float, *, bound_statements: bool = True) -> Engine:
    """Make an engine with the settings that durability and fail-over need on each database.

    :param timeout: seconds; longest wait for a connection or a lock.
    :param bound_statements: whether that is also the longest that a statement may take, where the database sees to it.
    :raises ConfigurationError: the URL is no database URL, or its driver is not installed.
    """
    parsed = parse_url(url)
    backend = parsed.get_backend_name()
    try:
        engine = create_engine(
            parsed,
            pool_size=pool_size, max_overflow=1, pool_timeout=timeout, pool_recycle=1800,
            hide_parameters=True,
            connect_args=_connect_arguments(backend, timeout, bound_statements),
            **({"isolation_level": "READ COMMITTED"} if backend in ("mysql", "mariadb") else {}),
        )
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError, ValueError):
        raise ConfigurationError("[database] connection is not a database URL that barbtx can use") from None
    _leave_stale_connections(engine)
    if backend == "sqlite":
        keep_private(engine)
        _make_sqlite_durable(engine)
    return engine


def _spread_hosts(url: str) -> str:
    """A URL with several hosts as libpq writes them (``host1:port,host2:port``), in the form that SQLAlchemy reads."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    if not scheme.startswith("postgres") or "," not in hosts:
        return url
    database, _, query = path.partition("?")
    query = "&".join(filter(None, [*(f"host={host}" for host in hosts.split(",")), query]))
    return f"{scheme}://{user}{at}/{database}?{query}"


def _leave_stale_connections(engine: Engine) -> None:
    """Have connections leave the pool that lead to a server which is gone, or is not the primary any more."""
    @event.listens_for(engine, "handle_error")
    def judge(context: ExceptionContext) -> None:
        # SQLAlchemy then closes this connection, and every other that is not younger when it is next asked for.
        if context.connection is not None and classify(context.original_exception).kind in STALE:
            context.is_disconnect = True

    @event.listens_for(engine, "connect")
    def remember_age(connection: Any, record: Any) -> None:
        record.info["barbtx_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def leave_read_only(connection: Any, record: Any, _: object) -> None:
        # Reads succeed on a demoted primary, but what they read is out of date. PostgreSQL 14 and later report what they
        # are without being asked.
        status = getattr(getattr(connection, "pgconn", None), "parameter_status", lambda name: None)
        read_only = b"on" in (status(b"in_hot_standby"), status(b"default_transaction_read_only"))
        if read_only and time.monotonic() - record.info["barbtx_since"] > _READ_ONLY_SECONDS:
            raise exc.InvalidatePoolError("the server is read-only")


def _connect_arguments(backend: str, timeout: float, bound_statements: bool) -> dict[str, object]:
    milliseconds = int(timeout * 1000)
    if backend == "sqlite":
        return {"timeout": timeout}
    if backend == "postgresql":
        return {
            "connect_timeout": 2, "tcp_user_timeout": milliseconds,
            "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
            "options": f"-c lock_timeout={milliseconds} -c statement_timeout={milliseconds if bound_statements else 0} "
                       "-c idle_in_transaction_session_timeout=60000 -c timezone=UTC",
        }
    whole = max(1, round(timeout))
    # A table's lock is waited for by another clock than a row's. The comment is one to all but MariaDB.
    bound = f" /*M! , max_statement_time={timeout} */" if bound_statements else ""
    return {"connect_timeout": whole, "read_timeout": 60, "write_timeout": 60, "charset": "utf8mb4",
            "init_command": f"SET SESSION innodb_lock_wait_timeout={whole}, lock_wait_timeout={whole}, "
                            f"time_zone='+00:00'{bound}"}


def _make_sqlite_durable(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        # The driver's own idea of when a transaction begins would leave reads outside of one.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
        # Its own one knows ASCII only, and lists are filtered without regard to case.
        connection.create_function("lower", 1, lambda text: text if text is None else str(text).lower(),
                                   deterministic=True)

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        write = connection.get_execution_options().get("barbtx_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
