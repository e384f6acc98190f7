"""The versions of the database schema, and the check of a database's version at startup.

Nothing here imports alembic, which only upgrades need: every process would keep it and what it imports in memory.
"""

from __future__ import annotations

import re
from importlib.resources import files

from sqlalchemy import exc, false, inspect, literal, select
from sqlalchemy.orm import Session

from barbtx.errors import ConfigurationError, one_line
from barbtx.model.migration.counts import check_triggers
from barbtx.model.migration.ownership import check_ownership, current_version
from barbtx.model.models import Base
from barbtx.model.sqlite_file import check_file

# PostgreSQL: insufficient_privilege. MariaDB: access denied to a database, command, table, column or operation.
_DENIED = {"42501", 1044, 1142, 1143, 1227}
_SCRIPT = re.compile(r"(\d{4})_\w+\.py")


def head_revision() -> str:
    """The schema version that this release needs."""
    return known_revisions()[0]


def known_revisions() -> tuple[str, ...]:
    """The schema versions that this release knows, newest first: the numbers in the names of alembic's scripts."""
    scripts = map(_SCRIPT.fullmatch, (file.name for file in (files(__package__) / "versions").iterdir()))
    return tuple(sorted((script[1] for script in scripts if script), reverse=True))


def check_schema(session: Session) -> None:
    """Check that the database has the schema that this release needs, and that its tables can be read.

    :raises ConfigurationError: the check fails; the text gives the remedy.
    """
    url = session.get_bind().engine.url
    check_file(url)
    known = known_revisions()
    head = known[0]
    try:
        if url.get_backend_name() == "sqlite":
            # Checked through another engine first: the usual one changes the file, which may belong to another program.
            current_version(url.render_as_string(hide_password=False), known)
        connection = session.connection()
        current = check_ownership(connection, known)
        if current != head:
            found = f"the database schema is at version {current}" if current else "the database has no schema yet"
            raise ConfigurationError(f"{found}; this release needs version {head}: run 'barbtx-manage db upgrade'")
        missing = sorted(Base.metadata.tables.keys() - set(inspect(connection).get_table_names()))
        if missing:
            raise ConfigurationError(
                f"the database has no table {', '.join(missing)}, although its schema is at version {current}: "
                "restore it from a backup"
            )
        for table in Base.metadata.sorted_tables:
            connection.execute(select(literal(1)).select_from(table).where(false())).all()
        check_triggers(session)
    except exc.DBAPIError as problem:
        arguments = problem.orig.args if problem.orig is not None else ()
        if getattr(problem.orig, "sqlstate", None) in _DENIED or (arguments and arguments[0] in _DENIED):
            raise ConfigurationError(
                f"the database user lacks the privileges to read barbtx's tables: {one_line(arguments[-1])}"
            ) from None
        raise
