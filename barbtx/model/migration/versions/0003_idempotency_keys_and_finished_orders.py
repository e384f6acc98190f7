"""Add idempotency keys, and indexes for recently finished orders and the creation times of tasks

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
_TIME = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
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
    op.create_index("ix_orders_updated_at", "orders", ["updated_at"])
    op.create_index("ix_order_retry_tasks_created_at", "order_retry_tasks", ["created_at"])


def downgrade() -> None:
    op.drop_index("ix_order_retry_tasks_created_at", "order_retry_tasks")
    op.drop_index("ix_orders_updated_at", "orders")
    op.drop_table("idempotency_keys")
