"""Create the tables of projects, secrets, project keys and orders

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
_ID = sa.String(36)
_TEXT = sa.String(255)
_FREE_TEXT = sa.String(510)
_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_TIME = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", _ID, nullable=False),
        sa.Column("external_id", _TEXT, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("external_id", name="uq_projects_external_id"),
        **_MYSQL,
    )
    op.create_table(
        "kek_data",
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("plugin_name", _TEXT, nullable=False),
        sa.Column("kek_label", _TEXT, nullable=False),
        sa.Column("active", sa.Boolean(), nullable=True),
        sa.Column("algorithm", _TEXT, nullable=False),
        sa.Column("bit_length", sa.Integer(), nullable=False),
        sa.Column("mode", _TEXT, nullable=False),
        sa.Column("plugin_meta", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_kek_data_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_kek_data"),
        sa.UniqueConstraint("project_id", "plugin_name", "active", name="uq_kek_data_project_id_plugin_name_active"),
        **_MYSQL,
    )
    op.create_table(
        "secrets",
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("name", _FREE_TEXT, nullable=True),
        sa.Column("secret_type", sa.String(36), nullable=False),
        sa.Column("expiration", _TIME, nullable=True),
        sa.Column("algorithm", _FREE_TEXT, nullable=True),
        sa.Column("bit_length", sa.Integer(), nullable=True),
        sa.Column("mode", _FREE_TEXT, nullable=True),
        sa.Column("creator_id", _TEXT, nullable=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("content_type", _TEXT, nullable=True),
        sa.Column("store_plugin", _TEXT, nullable=True),
        sa.Column("store_metadata", sa.Text(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_secrets_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_secrets"),
        **_MYSQL,
    )
    op.create_index("ix_secrets_project_id_created_at_id", "secrets", ["project_id", "created_at", "id"])
    op.create_table(
        "encrypted_data",
        sa.Column("secret_id", _ID, nullable=False),
        sa.Column("kek_id", _ID, nullable=False),
        sa.Column("cypher_text", _BYTES, nullable=False),
        sa.Column("kek_meta_extended", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["kek_id"], ["kek_data.id"], name="fk_encrypted_data_kek_id"),
        sa.ForeignKeyConstraint(["secret_id"], ["secrets.id"], name="fk_encrypted_data_secret_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("secret_id", name="pk_encrypted_data"),
        **_MYSQL,
    )
    op.create_index("ix_encrypted_data_kek_id", "encrypted_data", ["kek_id"])
    op.create_table(
        "orders",
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("type", sa.String(36), nullable=False),
        sa.Column("meta", sa.Text(), nullable=False),
        sa.Column("creator_id", _TEXT, nullable=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("sub_status", sa.String(36), nullable=True),
        sa.Column("sub_status_message", _TEXT, nullable=True),
        sa.Column("error_status_code", sa.String(16), nullable=True),
        sa.Column("error_reason", _TEXT, nullable=True),
        sa.Column("secret_id", _ID, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_orders_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_orders"),
        **_MYSQL,
    )
    op.create_index("ix_orders_project_id_created_at_id", "orders", ["project_id", "created_at", "id"])
    op.create_table(
        "order_retry_tasks",
        sa.Column("order_id", _ID, nullable=False),
        sa.Column("retry_task", _TEXT, nullable=False),
        sa.Column("retry_kwargs", sa.Text(), nullable=False),
        sa.Column("retry_at", _TIME, nullable=False),
        sa.Column("retry_count", sa.Integer(), nullable=False),
        sa.Column("lease", _ID, nullable=True),
        sa.Column("leased_until", _TIME, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name="fk_order_retry_tasks_order_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("order_id", name="pk_order_retry_tasks"),
        **_MYSQL,
    )
    op.create_index("ix_order_retry_tasks_retry_at", "order_retry_tasks", ["retry_at"])


def downgrade() -> None:
    for table in ("order_retry_tasks", "orders", "encrypted_data", "secrets", "kek_data", "projects"):
        op.drop_table(table)
