"""Checks that a database belongs to barbtx, and not to another program or a later release."""

from __future__ import annotations

import os
import re

from sqlalchemy import Connection, column, create_engine, exc, inspect, select, table

from barbtx.errors import ConfigurationError
from barbtx.model.engine import make_engine, parse_url

_NUMBER = re.compile(r"\d{4}")
_VERSION_TABLE = "alembic_version"
# Tables that exist in every version of the schema.
_OWN_TABLES = frozenset({"projects", "secrets", "order_retry_tasks"})
_ADVICE = "give barbtx an empty database of its own in [database] connection"


def check_ownership(connection: Connection, known: tuple[str, ...]) -> str | None:
    """The schema version of a database; None if the database is empty. The database is not changed.

    :param known: the versions that this release knows, newest first.
    :raises ConfigurationError: the database belongs to another program or a later release.
    """
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    if _VERSION_TABLE in tables and "version_num" not in {
        column["name"] for column in inspector.get_columns(_VERSION_TABLE)
    }:
        raise ConfigurationError(
            f"the database belongs to another program: its table {_VERSION_TABLE} has no column version_num; {_ADVICE}"
        )
    heads: list[str] = []
    if inspector.has_table(_VERSION_TABLE):
        heads += connection.scalars(select(column("version_num")).select_from(table(_VERSION_TABLE)))
    own = ", ".join(heads)
    if not heads:
        others = sorted(tables - {_VERSION_TABLE})
        if others:
            raise ConfigurationError(
                f"the database has tables ({_few(others)}) but no schema version: it belongs to "
                f"another program, or its first upgrade has not finished; {_ADVICE}"
            )
        return None
    if len(heads) == 1 and _NUMBER.fullmatch(own) and own > known[0]:
        raise ConfigurationError(
            f"the database schema is at version {own}, newer than this release's {known[0]}: use "
            "the release of barbtx that made it, or a later one; a schema is never downgraded"
        )
    if own not in known or not tables >= _OWN_TABLES:
        raise ConfigurationError(
            f"the database belongs to another program: its schema version {own} is not barbtx's, "
            f"or barbtx's tables are not there; {_ADVICE}"
        )
    return own


def current_version(url: str, known: tuple[str, ...]) -> str | None:
    """The schema version of a database; None if it has none yet. The database is neither changed nor created.

    :param url: a SQLAlchemy URL.
    :param known: see :func:`check_ownership`.
    :raises ConfigurationError: the database belongs to another program or a later release, or the file is not an SQLite
        database.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or not os.path.exists(parsed.database):
            return None
        # make_engine sets the journal mode, which changes the file.
        engine = create_engine(parsed)
    else:
        engine = make_engine(url, 1, 30.0, bound_statements=False)
    try:
        with engine.connect() as connection:
            if parsed.get_backend_name() == "sqlite":
                # The driver would read each table in a transaction of its own, between which an upgrade may end.
                connection.exec_driver_sql("BEGIN")
            return check_ownership(connection, known)
    except exc.DatabaseError as problem:
        if getattr(problem.orig, "sqlite_errorname", None) == "SQLITE_NOTADB":
            raise ConfigurationError(f"[database] connection: {parsed.database}: {problem.orig}") from None
        raise
    finally:
        engine.dispose()


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
