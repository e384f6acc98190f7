"""One upgrade of a database at a time, whichever process and machine it runs on."""

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
    """Hold the lock for upgrades of the connection's database; it ends with the connection at the latest.

    On SQLite the write transaction is the lock.

    :param seconds: longest wait for another upgrade to end.
    :raises ConfigurationError: it did not end in time.
    """
    backend = "mysql" if connection.dialect.name == "mariadb" else connection.dialect.name
    if backend not in _TAKE:
        yield
        return
    # MariaDB's locks are the whole server's, PostgreSQL's are the database's.
    digest = hashlib.sha256(f"barbtx schema {connection.engine.url.database}".encode()).digest()
    names = (
        {"name": f"barbtx-{digest[:16].hex()}"}
        if backend == "mysql"
        else {"number": int.from_bytes(digest[:8], signed=True)}
    )
    end = monotonic() + seconds
    while not connection.scalar(text(_TAKE[backend]), names):
        # Not idle in a transaction meanwhile: the server ends such connections.
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
