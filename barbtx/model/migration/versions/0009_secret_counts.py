"""Add counts of secrets, which triggers maintain on PostgreSQL, and an index of secrets by expiration

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}

# PostgreSQL's least() ignores nulls. The last day that other programs can represent stands for "never".
_DAY = "least({}::date, DATE '9999-12-31')"
_CHANGE = "INSERT INTO {schema}.secret_count_changes (project_id, expires_on, secrets)"
_ROWS = f"SELECT project_id, {_DAY.format('expiration')}, {{}}count(*) FROM {{}} GROUP BY 1, 2"

# By name: the event, and what is done then.
_TRIGGERS = {
    "count_added_secrets": (
        "AFTER INSERT ON {schema}.secrets REFERENCING NEW TABLE AS added FOR EACH STATEMENT",
        f"{_CHANGE} {_ROWS.format('', 'added')}",
    ),
    "count_deleted_secrets": (
        "AFTER DELETE ON {schema}.secrets REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT",
        f"{_CHANGE} {_ROWS.format('-', 'deleted')}",
    ),
    "count_changed_secret": (
        "AFTER UPDATE ON {schema}.secrets FOR EACH ROW"
        " WHEN ((OLD.project_id, OLD.expiration) IS DISTINCT FROM (NEW.project_id, NEW.expiration))",
        f"{_CHANGE} VALUES (OLD.project_id, {_DAY.format('OLD.expiration')}, -1),"
        f" (NEW.project_id, {_DAY.format('NEW.expiration')}, 1)",
    ),
    "count_truncated_secrets": (
        "AFTER TRUNCATE ON {schema}.secrets FOR EACH STATEMENT",
        "TRUNCATE {schema}.secret_count_changes, {schema}.secret_counts",
    ),
}
# The functions have the privileges of their owner, so that every role that may change secrets changes their counts.
# Such functions must not look names up in schemas where others may create objects.
_FUNCTION = (
    "CREATE FUNCTION {schema}.{name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
    " SET search_path = pg_catalog, pg_temp AS $$ BEGIN {body}; RETURN NULL; END $$"
)


def upgrade() -> None:
    op.create_table(
        "secret_counts",
        sa.Column("project_id", sa.String(36), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=False),
        sa.Column("secrets", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_secret_counts_project_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", "expires_on", name="pk_secret_counts"),
        **_MYSQL,
    )
    op.create_table(
        "secret_count_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.String(36), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=False),
        sa.Column("secrets", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_secret_count_changes"),
        **_MYSQL,
    )
    op.create_index(
        "ix_secret_count_changes_project_id_expires_on", "secret_count_changes", ["project_id", "expires_on"]
    )
    op.create_index(
        "ix_secrets_project_id_expiration",
        "secrets",
        ["project_id", "expiration"],
        postgresql_where=sa.text("expiration IS NOT NULL"),
    )
    if op.get_bind().dialect.name != "postgresql":
        return
    schema = _schema()
    for name, (event, body) in _TRIGGERS.items():
        op.execute(_FUNCTION.format(schema=schema, name=name, body=body.format(schema=schema)))
        op.execute(f"REVOKE ALL ON FUNCTION {schema}.{name}() FROM PUBLIC")
        op.execute(f"CREATE TRIGGER {name} {event.format(schema=schema)} EXECUTE FUNCTION {schema}.{name}()")
    # CREATE TRIGGER has locked the table, so that nobody else changes secrets from here on to the end.
    op.execute(f"INSERT INTO {schema}.secret_counts {_ROWS.format('', 'secrets')}")


def _schema() -> str:
    return op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        schema = _schema()
        for name in _TRIGGERS:
            op.execute(f"DROP TRIGGER {name} ON {schema}.secrets")
            op.execute(f"DROP FUNCTION {schema}.{name}()")
    op.drop_index("ix_secrets_project_id_expiration", "secrets")
    op.drop_table("secret_count_changes")
    op.drop_table("secret_counts")
