"""The database: an engine, threads of its own, and :meth:`Database.interact`, through which all its work goes.

SQLAlchemy's synchronous API is called in a bounded thread pool that belongs to the database alone. A piece of work is a
plain function of a session; it runs in one transaction and one thread hop. Its result must be plain data, since the
session is gone when it arrives in the reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
from oslo_config import cfg
from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from barbtx.errors import BadRequest, ConfigurationError, ServiceUnavailable

T = TypeVar("T")

OPTIONS = {
    "database": [
        cfg.StrOpt("connection", default="sqlite:///barbtx.sqlite", secret=True,
                   help="SQLAlchemy URL: sqlite:///file, postgresql://… (psycopg 3) or mysql://… (PyMySQL)."),
        cfg.IntOpt("max_pool_size", default=8, min=1, max=256,
                   help="Connections to the database, and threads that use them, per process."),
        cfg.IntOpt("max_waiting", default=1000, min=1,
                   help="Transactions that may wait for a thread; further ones are refused (503)."),
        cfg.FloatOpt("timeout_seconds", default=1.8, min=0.1,
                     help="Longest time that one transaction may take, waiting included, before it is given up (503)."),
        cfg.IntOpt("max_retries", default=3, min=0, max=20,
                   help="How often a transaction is run again after a deadlock or on a connection found dead."),
    ],
}

# PostgreSQL: serialization_failure, deadlock_detected. MariaDB: lock wait time-out, deadlock, record changed.
_SERIALIZATION_STATES = {"40001", "40P01"}
_SERIALIZATION_CODES = {1205, 1213, 1020}

log = Logger()


class DatabaseUnavailable(ServiceUnavailable):
    """The database is down, too slow or has no room; nothing was changed, or the outcome of a commit is unknown."""

    def __init__(self, **debug: object) -> None:
        super().__init__("The database cannot be reached at the moment; please try again", **debug)


@attrs.define(eq=False)
class _Ticket:
    """A transaction that somebody waits for, or no longer does."""

    abandoned: bool = False


class Raced(Exception):
    """Another transaction removed what this one relies on; work that raises it is run again from the start."""


class Abandoned(Exception):
    """Nobody waits for this transaction any more; it was rolled back."""


@attrs.frozen
class Database:
    """An engine and the threads that use it.

    :ivar write_threads: on SQLite, which has one writer at a time, a pool of a single thread, so that writers queue in
        the order they came in instead of fighting for a lock.
    """

    reactor: IReactorFromThreads | IReactorTime
    engine: Engine
    read_threads: ThreadPool
    write_threads: ThreadPool
    max_waiting: int
    timeout: float
    max_retries: int
    _open: set[_Ticket] = attrs.field(factory=set, init=False, repr=False)

    @classmethod
    def from_config(cls, reactor: Any, conf: cfg.ConfigOpts) -> Database:
        """Make the engine that ``[database]`` describes; no connection is made yet.

        :raises ConfigurationError: the URL is no database URL.
        """
        options = conf.database
        engine = make_engine(options.connection, options.max_pool_size, options.timeout_seconds)
        threads = ThreadPool(0, options.max_pool_size, name="database")
        one_writer = engine.dialect.name == "sqlite"
        return cls(
            reactor, engine, threads,
            ThreadPool(0, 1, name="database-writer") if one_writer else threads,
            options.max_waiting, options.timeout_seconds, options.max_retries,
        )

    def start(self) -> None:
        """Start the threads; must be called before :meth:`interact`."""
        for pool in {self.read_threads, self.write_threads}:
            pool.start()

    def stop(self) -> None:
        """Let the transactions under way end, then close every connection. Blocks for at most their time."""
        for pool in {self.read_threads, self.write_threads}:
            pool.stop()
        self.engine.dispose()

    def interact(self, work: Callable[[Session], T], *, write: bool = True) -> Deferred[T]:
        """Run work in one transaction, in a thread of the database.

        Work may be run again from the start, after a deadlock, on a connection that turned out to be dead, or if a
        constraint fails: other transactions may have made or removed what it had looked for. It must have no effect but
        through its session. Cancelling the Deferred gives the transaction up; unless its commit is
        already under way it is rolled back.

        :param work: a blocking function of a session that returns plain data.
        :param write: whether it may change anything.
        :raises BadRequest: (asynchronously) the database does not take a value.
        :raises DatabaseUnavailable: (asynchronously) the database is down, too slow or has too many waiting.
        """
        if len(self._open) >= self.max_waiting:
            return fail(DatabaseUnavailable(reason="too many transactions are waiting"))
        ticket = _Ticket()
        self._open.add(ticket)

        def give_up(_: Deferred[T]) -> None:
            ticket.abandoned = True

        result: Deferred[T] = Deferred(give_up)

        def too_late() -> None:
            ticket.abandoned = True
            result.errback(DatabaseUnavailable(reason="no answer in time"))

        deadline = self.reactor.callLater(self.timeout, too_late)

        def done(succeeded: bool, outcome: T | Failure) -> None:
            self._open.discard(ticket)
            if ticket.abandoned or result.called:
                return
            result.callback(outcome) if succeeded else result.errback(outcome)

        def stop_clock(outcome: T | Failure) -> T | Failure:
            if deadline.active():
                deadline.cancel()
            return outcome

        pool = self.write_threads if write else self.read_threads
        pool.callInThreadWithCallback(
            lambda succeeded, outcome: self.reactor.callFromThread(done, succeeded, outcome),
            self._run, work, write, ticket,
        )
        return result.addBoth(stop_clock)

    def _run(self, work: Callable[[Session], T], write: bool, ticket: _Ticket) -> T:
        attempt = 0
        while True:
            if ticket.abandoned:
                raise Abandoned
            committing = False
            try:
                with Session(self.engine, expire_on_commit=False) as session:
                    if write:
                        session.connection(execution_options={"barbtx_write": True})
                    result = work(session)
                    session.flush()
                    if ticket.abandoned:
                        raise Abandoned
                    committing = True
                    session.commit()
                    return result
            except (Raced, exc.IntegrityError):
                attempt += 1
                if attempt > self.max_retries:
                    raise
            except exc.DataError as problem:
                log.warn("the database does not take a value: {code}", code=_code(problem))
                raise BadRequest("A value is too long, too large or has characters that cannot be kept.") from None
            except exc.DBAPIError as problem:
                attempt += 1
                retriable = _is_serialization(problem) or problem.connection_invalidated and not committing
                if retriable and attempt <= self.max_retries:
                    continue
                if retriable or isinstance(problem, (exc.OperationalError, exc.InterfaceError)):
                    log.warn("database unavailable: {kind} {code}", kind=type(problem.orig).__name__,
                             code=_code(problem))
                    raise DatabaseUnavailable(kind=type(problem.orig).__name__) from None
                raise
            except exc.TimeoutError:
                raise DatabaseUnavailable(reason="no free connection") from None


def _code(problem: exc.DBAPIError) -> object:
    original = problem.orig
    state = getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None)
    return state or next((arg for arg in getattr(original, "args", ()) if isinstance(arg, int)), None)


def _is_serialization(problem: exc.DBAPIError) -> bool:
    return _code(problem) in _SERIALIZATION_STATES | _SERIALIZATION_CODES


_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg",
            "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}


def make_engine(url: str, pool_size: int, timeout: float, *, bound_statements: bool = True) -> Engine:
    """Make an engine with the settings that durability and fail-over need on each database.

    :param timeout: seconds; longest wait for a connection or a lock.
    :param bound_statements: whether that is also the longest that a statement may take, where the database sees to it.
    :raises ConfigurationError: the URL is no database URL, or its driver is not installed.
    """
    try:
        parsed: URL = make_url(url)
        parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
        backend = parsed.get_backend_name()
        engine = create_engine(
            parsed,
            pool_size=pool_size, max_overflow=1, pool_timeout=timeout, pool_recycle=1800,
            hide_parameters=True,
            connect_args=_connect_arguments(backend, timeout, bound_statements),
            **({"isolation_level": "READ COMMITTED"} if backend in ("mysql", "mariadb") else {}),
        )
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError):
        raise ConfigurationError("[database] connection is not a database URL that barbtx can use") from None
    if backend == "sqlite":
        _make_sqlite_durable(engine)
    return engine


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
    return {"connect_timeout": whole, "read_timeout": 60, "write_timeout": 60, "charset": "utf8mb4",
            "init_command": f"SET SESSION innodb_lock_wait_timeout={whole}, time_zone='+00:00'"}


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
