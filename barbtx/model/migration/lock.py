"""A lock that allows one upgrade of a database at a time, across processes and machines."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from barbtx.errors import ConfigurationError

_POLL_SECONDS = 0.2
_TAKE = {
    "postgresql": "SELECT pg_try_advisory_lock(:number)",
    "mysql": "SELECT GET_LOCK(:name, 0)",
}
_RELEASE = {
    "postgresql": "SELECT pg_advisory_unlock(:number)",
    "mysql": "SELECT RELEASE_LOCK(:name)",
}


@contextmanager
def schema_lock(
    connection: Connection,
    seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Hold the lock for upgrades of the connection's database. The server releases it if the connection is lost.

    SQLite needs no such lock, because the upgrade is one write transaction.

    :param seconds: timeout for another upgrade to end.
    :raises ConfigurationError: the other upgrade did not end in time.
    """
    backend = "mysql" if connection.dialect.name == "mariadb" else connection.dialect.name
    if backend not in _TAKE:
        yield
        return
    # MariaDB's named locks apply to the whole server, PostgreSQL's advisory locks to the database.
    digest = hashlib.sha256(f"barbtx schema {connection.engine.url.database}".encode()).digest()
    names = (
        {"name": f"barbtx-{digest[:16].hex()}"}
        if backend == "mysql"
        else {"number": int.from_bytes(digest[:8], signed=True)}
    )
    end = monotonic() + seconds
    while not connection.scalar(text(_TAKE[backend]), names):
        # The server ends connections that are idle in a transaction for too long.
        connection.rollback()
        if monotonic() > end:
            raise ConfigurationError(
                f"another upgrade of this database has not ended within {seconds:g} seconds; try again"
            )
        sleep(_POLL_SECONDS)
    connection.commit()
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.rollback()
            connection.scalar(text(_RELEASE[backend]), names)
            connection.commit()
