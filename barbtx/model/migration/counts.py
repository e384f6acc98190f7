"""The counts of secrets that triggers maintain on PostgreSQL: whether the triggers exist, and counting again."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from barbtx.errors import ConfigurationError
from barbtx.model.engine import make_engine, parse_url

_TRIGGERS = frozenset(
    {"count_added_secrets", "count_deleted_secrets", "count_changed_secret", "count_truncated_secrets"}
)
_FIND_TRIGGERS = text(
    "SELECT tgname FROM pg_trigger WHERE tgrelid = CAST('secrets' AS regclass) AND tgenabled IN ('O', 'A')"
)
_SECRETS = (
    "SELECT project_id, least(CAST(expiration AS date), DATE '9999-12-31') AS expires_on, count(*) AS secrets"
    " FROM secrets GROUP BY 1, 2"
)
# Nobody else changes secrets or counts until the end of the transaction.
_LOCK = ("LOCK TABLE secrets IN SHARE MODE", "LOCK TABLE secret_counts, secret_count_changes IN EXCLUSIVE MODE")
_COUNT_WRONG = (
    "SELECT count(DISTINCT project_id) FROM (SELECT project_id FROM ("
    "SELECT project_id, expires_on, secrets FROM secret_counts UNION ALL"
    " SELECT c.project_id, expires_on, secrets FROM secret_count_changes c JOIN projects p ON p.id = c.project_id"
    f" UNION ALL SELECT project_id, expires_on, -secrets FROM ({_SECRETS}) present"
    ") compared GROUP BY project_id, expires_on HAVING sum(secrets) <> 0) wrong"
)
_REPLACE = (
    "DELETE FROM secret_count_changes",
    "DELETE FROM secret_counts",
    f"INSERT INTO secret_counts (project_id, expires_on, secrets) {_SECRETS}",
)


def check_triggers(session: Session) -> None:
    """Check that the triggers exist, on PostgreSQL, and are enabled.

    :raises ConfigurationError: the check fails; the text gives the remedy.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    missing = sorted(_TRIGGERS - set(session.scalars(_FIND_TRIGGERS)))
    if missing:
        raise ConfigurationError(
            f"the trigger {', '.join(missing)} of the table secrets is missing or disabled: restore or enable it, then "
            "run 'barbtx-manage db recount'"
        )


def recount(url: str) -> int:
    """Count the secrets of all projects again. Meanwhile other transactions that write secrets wait.

    :param url: a SQLAlchemy URL.
    :return: how many projects had a wrong count.
    :raises ConfigurationError: the database is not PostgreSQL, which alone has counts.
    """
    if parse_url(url).get_backend_name() != "postgresql":
        raise ConfigurationError("db recount: only databases of PostgreSQL have counts")
    engine = make_engine(url, 1, 30.0, bound_statements=False).execution_options(isolation_level="READ COMMITTED")
    try:
        with engine.begin() as connection:
            for statement in _LOCK:
                connection.execute(text(statement))
            wrong: int = connection.execute(text(_COUNT_WRONG)).scalar_one()
            for statement in _REPLACE:
                connection.execute(text(statement))
        return wrong
    finally:
        engine.dispose()
