"""Store idempotency keys per user instead of per project; mark the passphrases of orders

The rows of ``idempotency_keys`` are dropped. They do not contain the user who sent the key, and their fingerprints
allow guesses at request bodies. With the default ``[idempotency] life_seconds`` they would have expired within a day. A
request that is retried across the upgrade creates a second object.

The passphrases of pending orders are not encrypted again. Only the first byte of their envelope changes, which
distinguishes them from payloads; see ``barbtx/plugin/crypto/envelope.py``.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
_TIME = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

_PASSPHRASES = sa.table(
    "order_passphrases",
    sa.column("order_id", sa.String),
    sa.column("kek_id", sa.String),
    sa.column("cypher_text", sa.LargeBinary),
)
_KEKS = sa.table("kek_data", sa.column("id", sa.String), sa.column("plugin_name", sa.String))

_SEALED_BY = "barbtx.plugin.crypto.simple_crypto.SimpleCrypto"
_VERSION_1 = b"\x01"
_PASSPHRASE_VERSION_1 = b"\x81"


def upgrade() -> None:
    op.drop_table("idempotency_keys")
    op.create_table(
        "idempotency_keys",
        sa.Column("project_id", sa.String(36), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(255), nullable=False),
        sa.Column("object_type", sa.String(20), nullable=False),
        sa.Column("object_id", sa.String(36), nullable=False),
        sa.Column("transport_key_id", sa.String(36), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_idempotency_keys_project_id"),
        sa.PrimaryKeyConstraint("project_id", "digest", name="pk_idempotency_keys"),
        **_MYSQL,
    )
    op.create_index("ix_idempotency_keys_project_id_created_at", "idempotency_keys", ["project_id", "created_at"])
    op.create_index("ix_idempotency_keys_object_id", "idempotency_keys", ["object_id"])
    _mark_passphrases(_VERSION_1, _PASSPHRASE_VERSION_1)


def downgrade() -> None:
    """Undo the upgrade. The earlier release cannot decrypt passphrases that were encrypted since then."""
    _mark_passphrases(_PASSPHRASE_VERSION_1, _VERSION_1)
    op.drop_table("idempotency_keys")
    op.create_table(
        "idempotency_keys",
        sa.Column("project_id", sa.String(36), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(255), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_idempotency_keys_project_id"),
        sa.PrimaryKeyConstraint("project_id", "digest", name="pk_idempotency_keys"),
        **_MYSQL,
    )
    op.create_index("ix_idempotency_keys_project_id_created_at", "idempotency_keys", ["project_id", "created_at"])


def _mark_passphrases(old: bytes, new: bytes) -> None:
    """Replace the version byte of the envelopes in ``order_passphrases``, which has a row for each pending order."""
    connection = op.get_bind()
    rows = connection.execute(
        sa.select(_PASSPHRASES.c.order_id, _PASSPHRASES.c.cypher_text)
        .join(_KEKS, _KEKS.c.id == _PASSPHRASES.c.kek_id)
        .where(_KEKS.c.plugin_name == _SEALED_BY, _PASSPHRASES.c.cypher_text.is_not(None))
    ).all()
    for order_id, sealed in rows:
        sealed = bytes(sealed)
        if sealed[:1] == old:
            connection.execute(
                sa.update(_PASSPHRASES).where(_PASSPHRASES.c.order_id == order_id).values(cypher_text=new + sealed[1:])
            )
