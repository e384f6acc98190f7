"""Add indexes for the oldest consumers of an object, and for those that one project registered

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLES = ("secret_consumer_metadata", "container_consumer_metadata")


def upgrade() -> None:
    for table in _TABLES:
        op.create_index(f"ix_{table}_object_id_created_at_id", table, ["object_id", "created_at", "id"])
        # MariaDB always requires an index that starts with the column of a foreign key, so the old one is dropped last.
        op.create_index(f"ix_{table}_project_id_object_id", table, ["project_id", "object_id"])
        op.drop_index(f"ix_{table}_project_id", table)


def downgrade() -> None:
    for table in _TABLES:
        op.create_index(f"ix_{table}_project_id", table, ["project_id"])
        op.drop_index(f"ix_{table}_project_id_object_id", table)
        op.drop_index(f"ix_{table}_object_id_created_at_id", table)
