"""What ``barbtx-manage db upgrade`` does."""

from __future__ import annotations

from alembic import command
from alembic.util import CommandError

from barbtx.errors import ConfigurationError
from barbtx.model.engine import parse_url
from barbtx.model.migration import alembic_config, known_revisions
from barbtx.model.migration.ownership import current_version


def upgrade(url: str, version: str, wait_seconds: float) -> None:
    """Bring the schema of a database to a version. Upgrades at the same time follow each other.

    :param url: a SQLAlchemy URL.
    :param version: ``head`` for this release's.
    :param wait_seconds: longest wait for another upgrade of the same database.
    :raises ConfigurationError: the database is another program's or a later release's, or there is no such version.
    """
    if parse_url(url).get_backend_name() == "sqlite":
        # Before anything is changed. Elsewhere it is done under the lock: MariaDB shows half an upgrade to others.
        current_version(url, known_revisions())
    try:
        command.upgrade(alembic_config(url, wait_seconds), version)
    except CommandError as problem:
        raise ConfigurationError(f"db upgrade: {' '.join(str(problem).split())}") from None
