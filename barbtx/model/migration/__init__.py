"""The schema and its versions, with alembic."""

from __future__ import annotations

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import exc, false, inspect, literal, select
from sqlalchemy.orm import Session

from barbtx.errors import ConfigurationError
from barbtx.model.migration.ownership import check_ownership, current_version
from barbtx.model.models import Base
from barbtx.model.sqlite_file import check_file

# PostgreSQL: insufficient_privilege. MariaDB: denied to the database, a command, a table, a column, an operation.
_DENIED = {"42501", 1044, 1142, 1143, 1227}


def alembic_config(url: str, wait_seconds: float = 600.0) -> Config:
    """alembic's configuration for a database.

    :param url: a SQLAlchemy URL.
    :param wait_seconds: longest wait for another upgrade of the same database to end.
    """
    config = Config()
    config.set_main_option("script_location", "barbtx:model/migration")
    config.attributes["url"] = url
    config.attributes["wait_seconds"] = wait_seconds
    return config


def head_revision() -> str:
    """The version of the schema that this release needs."""
    return ScriptDirectory.from_config(alembic_config("")).get_current_head()


def known_revisions() -> tuple[str, ...]:
    """The versions that this release knows, its own first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(alembic_config("")).walk_revisions())


def check_schema(session: Session) -> None:
    """Make sure that the database has the schema that this release needs, and lets this user read it.

    :raises ConfigurationError: it has another, or is none; the text says what to do.
    """
    url = session.get_bind().url
    check_file(url)
    head, known = head_revision(), known_revisions()
    try:
        if url.get_backend_name() == "sqlite":
            # Looked at apart: to connect as usual changes the file, which may be another program's.
            current_version(url.render_as_string(hide_password=False), known)
        connection = session.connection()
        current = check_ownership(connection, known)
        if current != head:
            raise ConfigurationError(
                f"the database schema is at version {current or 'none'}, this release needs {head}: "
                "run 'barbtx-manage db upgrade'"
            )
        missing = sorted(Base.metadata.tables.keys() - set(inspect(connection).get_table_names()))
        if missing:
            raise ConfigurationError(
                f"the database has no table {', '.join(missing)}, although its schema is at version {current}: "
                "restore it from a backup"
            )
        for table in Base.metadata.sorted_tables:
            connection.execute(select(literal(1)).select_from(table).where(false())).all()
    except exc.DBAPIError as problem:
        original = problem.orig
        if getattr(original, "sqlstate", None) in _DENIED or (original.args and original.args[0] in _DENIED):
            raise ConfigurationError(
                "the database user has not the rights to read barbtx's tables: "
                f"{' '.join(str(original.args[-1]).split())}"
            ) from None
        raise
