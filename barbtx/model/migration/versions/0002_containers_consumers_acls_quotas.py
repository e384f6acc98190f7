"""Create the tables of containers, consumers, ACLs, user metadata, quotas, secret stores and transport keys

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
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
        "acls",
        sa.Column("object_id", _ID, nullable=False),
        sa.Column("project_access", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("object_id", name="pk_acls"),
        **_MYSQL,
    )
    op.create_table(
        "transport_keys",
        sa.Column("id", _ID, nullable=False),
        sa.Column("plugin_name", sa.Text(), nullable=False),
        sa.Column("transport_key", sa.Text(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_transport_keys"),
        **_MYSQL,
    )
    op.create_index("ix_transport_keys_created_at_id", "transport_keys", ["created_at", "id"])
    op.create_table(
        "acl_users",
        sa.Column("object_id", _ID, nullable=False),
        sa.Column("user_id", _FREE_TEXT, nullable=False),
        sa.ForeignKeyConstraint(["object_id"], ["acls.object_id"], name="fk_acl_users_object_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("object_id", "user_id", name="pk_acl_users"),
        **_MYSQL,
    )
    op.create_table(
        "containers",
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("name", _FREE_TEXT, nullable=True),
        sa.Column("type", _ID, nullable=False),
        sa.Column("creator_id", _TEXT, nullable=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_containers_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_containers"),
        **_MYSQL,
    )
    op.create_index("ix_containers_project_id_created_at_id", "containers", ["project_id", "created_at", "id"])
    op.create_table(
        "project_quotas",
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("secrets", sa.Integer(), nullable=True),
        sa.Column("orders", sa.Integer(), nullable=True),
        sa.Column("containers", sa.Integer(), nullable=True),
        sa.Column("consumers", sa.Integer(), nullable=True),
        sa.Column("cas", sa.Integer(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_project_quotas_project_id"),
        sa.PrimaryKeyConstraint("project_id", name="pk_project_quotas"),
        **_MYSQL,
    )
    op.create_table(
        "container_consumer_metadata",
        sa.Column("object_id", _ID, nullable=False),
        sa.Column("name", _FREE_TEXT, nullable=False),
        sa.Column("URL", _FREE_TEXT, nullable=False),
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"], ["containers.id"], name="fk_container_consumer_metadata_object_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_container_consumer_metadata_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_container_consumer_metadata"),
        sa.UniqueConstraint("object_id", "digest", name="uq_container_consumer_metadata_object_id_digest"),
        **_MYSQL,
    )
    op.create_table(
        "container_secret",
        sa.Column("id", _ID, nullable=False),
        sa.Column("container_id", _ID, nullable=False),
        sa.Column("secret_id", _ID, nullable=False),
        sa.Column("name", _FREE_TEXT, nullable=True),
        sa.ForeignKeyConstraint(
            ["container_id"], ["containers.id"], name="fk_container_secret_container_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["secret_id"], ["secrets.id"], name="fk_container_secret_secret_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_container_secret"),
        **_MYSQL,
    )
    op.create_table(
        "order_passphrases",
        sa.Column("order_id", _ID, nullable=False),
        sa.Column("store_plugin", _TEXT, nullable=False),
        sa.Column("store_metadata", sa.Text(), nullable=False),
        sa.Column("kek_id", _ID, nullable=True),
        sa.Column("cypher_text", _BYTES, nullable=True),
        sa.Column("kek_meta_extended", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["kek_id"], ["kek_data.id"], name="fk_order_passphrases_kek_id"),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name="fk_order_passphrases_order_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("order_id", name="pk_order_passphrases"),
        **_MYSQL,
    )
    op.create_table(
        "secret_consumer_metadata",
        sa.Column("object_id", _ID, nullable=False),
        sa.Column("service", _FREE_TEXT, nullable=False),
        sa.Column("resource_type", _FREE_TEXT, nullable=False),
        sa.Column("resource_id", _FREE_TEXT, nullable=False),
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"], ["secrets.id"], name="fk_secret_consumer_metadata_object_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_secret_consumer_metadata_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_secret_consumer_metadata"),
        sa.UniqueConstraint("object_id", "digest", name="uq_secret_consumer_metadata_object_id_digest"),
        **_MYSQL,
    )
    op.create_table(
        "secret_user_metadata",
        sa.Column("secret_id", _ID, nullable=False),
        sa.Column("key", _TEXT, nullable=False),
        sa.Column("value", _FREE_TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["secret_id"], ["secrets.id"], name="fk_secret_user_metadata_secret_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("secret_id", "key", name="pk_secret_user_metadata"),
        **_MYSQL,
    )
    op.create_table(
        "secret_stores",
        sa.Column("id", _ID, nullable=False),
        sa.Column("store_plugin", _TEXT, nullable=False),
        sa.Column("crypto_plugin", _TEXT, nullable=True),
        sa.Column("global_default", sa.Boolean(), nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_secret_stores"),
        **_MYSQL,
    )
    op.create_table(
        "project_secret_store",
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("secret_store_id", _ID, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_project_secret_store_project_id"),
        sa.ForeignKeyConstraint(
            ["secret_store_id"], ["secret_stores.id"], name="fk_project_secret_store_secret_store_id"
        ),
        sa.PrimaryKeyConstraint("project_id", name="pk_project_secret_store"),
        **_MYSQL,
    )
    op.create_index("ix_project_secret_store_secret_store_id", "project_secret_store", ["secret_store_id"])
    op.create_index("ix_acl_users_user_id", "acl_users", ["user_id"])
    op.create_index("ix_container_secret_container_id", "container_secret", ["container_id"])
    op.create_index("ix_container_secret_secret_id", "container_secret", ["secret_id"])
    op.create_index("ix_order_passphrases_kek_id", "order_passphrases", ["kek_id"])
    op.create_index("ix_container_consumer_metadata_project_id", "container_consumer_metadata", ["project_id"])
    op.create_index("ix_secret_consumer_metadata_project_id", "secret_consumer_metadata", ["project_id"])
    op.add_column("orders", sa.Column("container_id", _ID, nullable=True))


def downgrade() -> None:
    op.drop_column("orders", "container_id")
    for table in (
        "project_secret_store",
        "secret_stores",
        "secret_user_metadata",
        "secret_consumer_metadata",
        "order_passphrases",
        "container_secret",
        "container_consumer_metadata",
        "project_quotas",
        "containers",
        "acl_users",
        "transport_keys",
        "acls",
    ):
        op.drop_table(table)
