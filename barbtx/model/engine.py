"""SQLAlchemy engines: the driver of each database, and its settings for durability, timeouts and failover."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, create_engine, event, exc
from sqlalchemy.engine import URL, Engine, ExceptionContext, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from barbtx.errors import ConfigurationError
from barbtx.model.database_errors import STALE, classify
from barbtx.model.sqlite_permissions import keep_private
from barbtx.model.url_arguments import check_arguments

# Seconds for which a connection to a read-only server stays in the pool. After that another server may be the primary.
_READ_ONLY_SECONDS = 2.0
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}


def parse_url(url: str) -> URL:
    """Parse a database URL, and set the driver that barbtx uses.

    :raises ConfigurationError: it is not a database URL, has arguments that cannot be used, or names an SQLite database
        in memory.
    """
    try:
        parsed = make_url(_spread_hosts(url))
        parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
        # This loads the dialect, and fails if it is not installed.
        parsed.get_dialect()
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError, ValueError):
        raise ConfigurationError("[database] connection is not a database URL that barbtx can use") from None
    check_arguments(parsed)
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        # Each connection would open another database, which is lost when the connection is closed.
        raise ConfigurationError(
            "[database] connection: SQLite needs a file, as in sqlite:////var/lib/barbtx/barbtx.sqlite"
        )
    return parsed


def make_engine(
    url: str, pool_size: int, timeout: float, *, bound_statements: bool = True, prepares: bool = True
) -> Engine:
    """Make an engine, without connecting.

    :param pool_size: maximum number of pooled connections.
    :param timeout: seconds to wait for a connection or a lock.
    :param bound_statements: whether the timeout also applies to statements, on databases that support it.
    :param prepares: whether statements may be prepared on the server, on PostgreSQL.
    :raises ConfigurationError: the URL is not a database URL, or its driver is not installed.
    """
    parsed = parse_url(url)
    backend = parsed.get_backend_name()
    arguments = _connect_arguments(backend, timeout, bound_statements)
    if backend == "postgresql" and not prepares:
        arguments["prepare_threshold"] = None
    try:
        engine = create_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=1,
            pool_timeout=timeout,
            pool_recycle=1800,
            hide_parameters=True,
            connect_args=_with_arguments_of(parsed, arguments),
            **({"isolation_level": "READ COMMITTED"} if backend in ("mysql", "mariadb") else {}),
        )
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError, ValueError):
        raise ConfigurationError("[database] connection is not a database URL that barbtx can use") from None
    _drop_stale_connections(engine)
    if backend == "sqlite":
        keep_private(engine)
        _make_sqlite_durable(engine)
    return engine


def _spread_hosts(url: str) -> str:
    """Convert a URL with several hosts in libpq's form (``host1:port,host2:port``) to SQLAlchemy's form."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    if not scheme.startswith("postgres") or "," not in hosts:
        return url
    database, _, query = path.partition("?")
    query = "&".join(filter(None, [*(f"host={host}" for host in hosts.split(",")), query]))
    return f"{scheme}://{user}{at}/{database}?{query}"


def _drop_stale_connections(engine: Engine) -> None:
    """Drop pooled connections to a server that is down or is no longer the primary."""

    @event.listens_for(engine, "handle_error")
    def invalidate_stale(context: ExceptionContext) -> None:
        # SQLAlchemy then closes this connection, and every connection of the same age or older on its next checkout.
        if context.connection is not None and classify(context.original_exception).kind in STALE:
            context.is_disconnect = True

    @event.listens_for(engine, "connect")
    def record_age(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info["barbtx_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def drop_read_only(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        status = getattr(getattr(connection, "pgconn", None), "parameter_status", lambda name: None)
        if is_read_only(status, time.monotonic() - record.info["barbtx_since"]):
            raise exc.InvalidatePoolError("the server is read-only")


def is_read_only(status: Callable[[bytes], bytes | None], age: float) -> bool:
    """Whether a connection to PostgreSQL must be replaced, because its server was demoted and its data may be stale.

    PostgreSQL 14 and later report the parameters that tell without being asked.

    :param status: returns the value of a reported parameter.
    :param age: seconds since the connection was made.
    """
    read_only = b"on" in (status(b"in_hot_standby"), status(b"default_transaction_read_only"))
    return read_only and age > _READ_ONLY_SECONDS


def _with_arguments_of(url: URL, arguments: dict[str, object]) -> dict[str, object]:
    """Return the arguments of connections without those that the URL sets.

    The settings of sessions in ``options`` of a PostgreSQL URL are added to barbtx's own.
    """
    kept = {name: value for name, value in arguments.items() if name not in url.query or name == "charset"}
    if "options" in url.query and "options" in arguments:
        kept["options"] = f"{arguments['options']} {url.query['options']}"
    return kept


def _connect_arguments(backend: str, timeout: float, bound_statements: bool) -> dict[str, object]:
    milliseconds = int(timeout * 1000)
    if backend == "sqlite":
        return {"timeout": timeout}
    if backend == "postgresql":
        return {
            "connect_timeout": 2,
            "tcp_user_timeout": milliseconds,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "options": f"-c lock_timeout={milliseconds} -c statement_timeout={milliseconds if bound_statements else 0} "
            "-c idle_in_transaction_session_timeout=60000 -c timezone=UTC",
        }
    whole = max(1, round(timeout))
    # Table locks and row locks have separate timeouts. Only MariaDB executes the contents of a /*M! comment.
    bound = f" /*M! , max_statement_time={timeout} */" if bound_statements else ""
    return {
        "connect_timeout": whole,
        "read_timeout": 60,
        "write_timeout": 60,
        "charset": "utf8mb4",
        "init_command": f"SET SESSION innodb_lock_wait_timeout={whole}, lock_wait_timeout={whole}, "
        f"time_zone='+00:00'{bound}",
    }


def _make_sqlite_durable(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        # Otherwise the driver begins a transaction only before the first write, so that reads are outside of it.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
        # SQLite's own function supports ASCII only; case-insensitive filters of lists need all of Unicode.
        connection.create_function(
            "lower", 1, lambda text: text if text is None else str(text).lower(), deterministic=True
        )

    @event.listens_for(engine, "checkin")
    def roll_back(connection: Any, _: object) -> None:
        # SQLite does not end a transaction whose COMMIT it refuses, but SQLAlchemy does not use it any more.
        if connection is not None and connection.in_transaction:
            connection.rollback()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("barbtx_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
