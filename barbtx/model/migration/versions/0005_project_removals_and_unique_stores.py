"""Removals of projects; unique rows for secret stores and for the transport keys that stores publish

Revision ID: 0005
Revises: 0004
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
_TIME = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

_STORES = sa.table(
    "secret_stores", sa.column("id"), sa.column("store_plugin"), sa.column("crypto_plugin"), sa.column("created_at")
)
_PREFERENCES = sa.table("project_secret_store", sa.column("project_id"), sa.column("secret_store_id"))
_KEYS = sa.table(
    "transport_keys",
    sa.column("id"),
    sa.column("plugin_name"),
    sa.column("transport_key"),
    sa.column("created_at"),
    sa.column("digest"),
)


def upgrade() -> None:
    op.create_table(
        "project_removals",
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("requested_at", _TIME, nullable=False),
        sa.Column("due_at", _TIME, nullable=True),
        sa.Column("kept_until", _TIME, nullable=True),
        sa.Column("retry_at", _TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("problem", sa.String(255), nullable=True),
        sa.Column("lease", sa.String(36), nullable=True),
        sa.Column("leased_until", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("project_id", name="pk_project_removals"),
        **_MYSQL,
    )
    op.create_index("ix_project_removals_retry_at", "project_removals", ["retry_at"])
    _merge_secret_stores()
    op.create_index(
        "ix_secret_stores_store_plugin_crypto_plugin", "secret_stores", ["store_plugin", "crypto_plugin"], unique=True
    )
    op.add_column("transport_keys", sa.Column("digest", sa.String(64), nullable=True))
    _digest_transport_keys()
    op.create_index("ix_transport_keys_digest", "transport_keys", ["digest"], unique=True)


def _merge_secret_stores() -> None:
    """Keep one row for each backend: the one that most projects prefer, or the oldest of several such rows."""
    connection = op.get_bind()
    preferred = dict(
        connection.execute(
            sa.select(_PREFERENCES.c.secret_store_id, sa.func.count()).group_by(_PREFERENCES.c.secret_store_id)
        ).all()
    )
    same: dict[tuple[str, str], list[str]] = {}
    for row in connection.execute(sa.select(_STORES).order_by(_STORES.c.created_at, _STORES.c.id)):
        same.setdefault((row.store_plugin, row.crypto_plugin or ""), []).append(row.id)
    for ids in same.values():
        kept, *others = sorted(ids, key=lambda store_id: -preferred.get(store_id, 0))
        if others:
            connection.execute(
                sa.update(_PREFERENCES).where(_PREFERENCES.c.secret_store_id.in_(others)).values(secret_store_id=kept)
            )
            connection.execute(sa.delete(_STORES).where(_STORES.c.id.in_(others)))
    connection.execute(sa.update(_STORES).where(_STORES.c.crypto_plugin.is_(None)).values(crypto_plugin=""))


def _digest_transport_keys() -> None:
    """Set the digest of the oldest row of each key. Other rows are kept, because clients may have their ids."""
    connection = op.get_bind()
    done: set[str] = set()
    keys = sa.select(_KEYS.c.id, _KEYS.c.plugin_name, _KEYS.c.transport_key)
    for key_id, plugin_name, transport_key in connection.execute(keys.order_by(_KEYS.c.created_at, _KEYS.c.id)).all():
        digest = hashlib.sha256(json.dumps([plugin_name, transport_key]).encode()).hexdigest()
        if digest not in done:
            done.add(digest)
            connection.execute(sa.update(_KEYS).where(_KEYS.c.id == key_id).values(digest=digest))


def downgrade() -> None:
    op.drop_index("ix_transport_keys_digest", "transport_keys")
    op.drop_column("transport_keys", "digest")
    op.drop_index("ix_secret_stores_store_plugin_crypto_plugin", "secret_stores")
    op.get_bind().execute(sa.update(_STORES).where(_STORES.c.crypto_plugin == "").values(crypto_plugin=None))
    op.drop_table("project_removals")
