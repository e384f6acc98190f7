"""The schema and its versions, with alembic."""

from __future__ import annotations

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import exc
from sqlalchemy.orm import Session

from barbtx.errors import ConfigurationError


def alembic_config(url: str) -> Config:
    """alembic's configuration for a database.

    :param url: a SQLAlchemy URL.
    """
    config = Config()
    config.set_main_option("script_location", "barbtx:model/migration")
    config.attributes["url"] = url
    return config


def head_revision() -> str:
    """The version of the schema that this release needs."""
    return ScriptDirectory.from_config(alembic_config("")).get_current_head()


def check_schema(session: Session) -> None:
    """Make sure that the database has the schema that this release needs.

    :raises ConfigurationError: it has another; the text says what to do.
    """
    try:
        current = MigrationContext.configure(session.connection()).get_current_revision()
    except exc.ProgrammingError:
        current = None
    head = head_revision()
    if current != head:
        raise ConfigurationError(
            f"the database schema is at version {current or 'none'}, this release needs {head}: "
            "run 'barbtx-manage db upgrade'"
        )
