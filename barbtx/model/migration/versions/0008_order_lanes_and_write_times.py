"""Add the lane in which a task waits, the project of its order, and the time at which its row was written

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TIME = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    # They may be null, because processes of the previous release that still run insert rows without them.
    op.add_column("order_retry_tasks", sa.Column("project_id", sa.String(36), nullable=True))
    op.add_column("order_retry_tasks", sa.Column("waits_in", sa.String(16), nullable=True))
    op.add_column("order_retry_tasks", sa.Column("written_at", _TIME, nullable=True))
    op.execute(
        "UPDATE order_retry_tasks SET written_at = created_at,"
        " project_id = (SELECT o.project_id FROM orders o WHERE o.id = order_retry_tasks.order_id),"
        " waits_in = CASE WHEN lease IS NULL AND retry_count = 0 THEN (SELECT CASE o.type WHEN 'asymmetric' THEN"
        " 'asymmetric' ELSE 'symmetric' END FROM orders o WHERE o.id = order_retry_tasks.order_id) END"
    )
    op.create_index(
        "ix_order_retry_tasks_waits_in_project_id_created_at",
        "order_retry_tasks",
        ["waits_in", "project_id", "created_at"],
    )
    op.create_index("ix_order_retry_tasks_written_at", "order_retry_tasks", ["written_at"])
    op.drop_index("ix_order_retry_tasks_created_at", "order_retry_tasks")


def downgrade() -> None:
    op.create_index("ix_order_retry_tasks_created_at", "order_retry_tasks", ["created_at"])
    op.drop_index("ix_order_retry_tasks_written_at", "order_retry_tasks")
    op.drop_index("ix_order_retry_tasks_waits_in_project_id_created_at", "order_retry_tasks")
    for column in ("written_at", "waits_in", "project_id"):
        op.drop_column("order_retry_tasks", column)
