"""The wall clock of the database server, which is the one clock that all processes share."""

from __future__ import annotations

import datetime
from typing import LiteralString

from sqlalchemy import DateTime, cast, func, text
from sqlalchemy.orm import Session

#: Reads that clock in PostgreSQL.
READ_POSTGRESQL_TIME: LiteralString = "SELECT clock_timestamp() AT TIME ZONE 'UTC'"
#: That clock in statements for PostgreSQL.
DATABASE_TIME = cast(func.timezone("UTC", func.clock_timestamp()), DateTime)

# Not the transaction's start time: the transaction may have waited for a lock since then.
_QUERIES = {
    "postgresql": text(READ_POSTGRESQL_TIME),
    "mysql": text("SELECT UTC_TIMESTAMP(6)"),
    "mariadb": text("SELECT UTC_TIMESTAMP(6)"),
    "sqlite": text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')"),
}


def database_time(session: Session) -> datetime.datetime:
    """The time by the database server's clock as a naive datetime in UTC. SQLite uses this machine's clock."""
    now = session.scalar(_QUERIES[session.get_bind().dialect.name])
    return datetime.datetime.fromisoformat(now) if isinstance(now, str) else now
