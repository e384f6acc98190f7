"""Add the id of the master key that wraps each project key, and a canary for each crypto plugin

Revision ID: 0006
Revises: 0005
"""

import base64

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
_TEXT = sa.String(255)
_TIME = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

_SIMPLE_CRYPTO = "barbtx.plugin.crypto.simple_crypto.SimpleCrypto"
# The envelope of a wrapped key begins with a version (1 byte) and the id of the master key (16 bytes). This many base64
# characters depend on nothing else; they contain all of the id but its last 4 bits.
_PREFIX = 22
# Versions of the envelope that begin like this; databases at 0004 and 0005 have keys of version 2.
_VERSIONS = (1, 2)


def upgrade() -> None:
    op.add_column("kek_data", sa.Column("master_key_id", _TEXT, nullable=True))
    op.create_table(
        "crypto_canaries",
        sa.Column("plugin_name", _TEXT, nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("kek_label", _TEXT, nullable=False),
        sa.Column("algorithm", _TEXT, nullable=False),
        sa.Column("bit_length", sa.Integer(), nullable=False),
        sa.Column("mode", _TEXT, nullable=False),
        sa.Column("plugin_meta", sa.Text(), nullable=False),
        sa.Column("master_key_id", _TEXT, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("plugin_name", name="pk_crypto_canaries"),
        **_MYSQL,
    )
    _name_master_keys(op.get_bind())
    op.create_index("ix_kek_data_plugin_name_master_key_id", "kek_data", ["plugin_name", "master_key_id"])


def _name_master_keys(connection: sa.Connection) -> None:
    """Fill the new column with one statement for each master key, however many project keys there are."""
    table = sa.table("kek_data", sa.column("plugin_name"), sa.column("plugin_meta"), sa.column("master_key_id"))
    prefix = sa.func.substr(table.c.plugin_meta, 1, _PREFIX)
    ours = table.c.plugin_name == _SIMPLE_CRYPTO
    for start, example in connection.execute(
        sa.select(prefix, sa.func.min(table.c.plugin_meta)).where(ours).group_by(prefix)
    ).all():
        try:
            header = base64.b64decode(example, validate=True)[:17]
        except ValueError:
            continue
        if len(header) == 17 and header[0] in _VERSIONS:
            connection.execute(table.update().where(ours, prefix == start).values(master_key_id=header[1:].hex()))


def downgrade() -> None:
    op.drop_index("ix_kek_data_plugin_name_master_key_id", "kek_data")
    op.drop_table("crypto_canaries")
    with op.batch_alter_table("kek_data") as batch:
        batch.drop_column("master_key_id")
