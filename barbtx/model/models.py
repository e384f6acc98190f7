"""The tables. Models stay inside ``barbtx.model``; what leaves it are the frozen records of ``barbtx.model.records``.

Nothing is deleted softly: a row that is gone is gone, and with a secret its ciphertext in the same transaction.
"""

from __future__ import annotations

import datetime

from sqlalchemy import (
    Boolean,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# MariaDB compares text without regard to case, and keeps whole seconds, unless told otherwise.
_Time = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_Bytes = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_Id = String(36)


class _FreeText(TypeDecorator[str]):
    """Text of at most 255 characters, any of them: PostgreSQL has no NUL in text, so it is written in two others.

    The escape character is of the private use area, hence rare; itself it is written twice as long too.
    """

    impl = String(510)
    cache_ok = True
    _ESCAPE, _NUL, _SELF = "\uf8fe", "\uf8fe0", "\uf8fe1"

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return value.replace(self._ESCAPE, self._SELF).replace("\0", self._NUL)

    def process_result_value(self, value: str | None, dialect: object) -> str | None:
        if value is None or value.isascii():
            return value
        return value.replace(self._NUL, "\0").replace(self._SELF, self._ESCAPE)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    __table_args__: tuple = ({"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"},)


_MYSQL = Base.__table_args__[0]


class Project(Base):
    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    external_id: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)


class ProjectRemoval(Base):
    """A project that Keystone is said to have deleted, by Keystone's id; the row outlives the project's own.

    ``due_at`` is null until Keystone has confirmed that the project is gone; from then on nothing can be added to it.
    ``kept_until`` is set once everything is removed: until then a token that is still remembered adds nothing either.
    """

    __tablename__ = "project_removals"

    project_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    requested_at: Mapped[datetime.datetime] = mapped_column(_Time)
    due_at: Mapped[datetime.datetime | None] = mapped_column(_Time)
    kept_until: Mapped[datetime.datetime | None] = mapped_column(_Time)
    retry_at: Mapped[datetime.datetime] = mapped_column(_Time, index=True)
    attempts: Mapped[int] = mapped_column(Integer)
    problem: Mapped[str | None] = mapped_column(String(255))
    lease: Mapped[str | None] = mapped_column(_Id)
    leased_until: Mapped[datetime.datetime | None] = mapped_column(_Time)


class Secret(Base):
    """A secret's metadata. ``content_type`` and what follows it are set once a payload is there."""

    __tablename__ = "secrets"
    __table_args__ = (
        Index("ix_secrets_project_id_created_at_id", "project_id", "created_at", "id"),
        _MYSQL,
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str | None] = mapped_column(_FreeText)
    secret_type: Mapped[str] = mapped_column(String(36))
    expiration: Mapped[datetime.datetime | None] = mapped_column(_Time)
    algorithm: Mapped[str | None] = mapped_column(_FreeText)
    bit_length: Mapped[int | None] = mapped_column(Integer)
    mode: Mapped[str | None] = mapped_column(_FreeText)
    creator_id: Mapped[str | None] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(20))
    content_type: Mapped[str | None] = mapped_column(String(255))
    store_plugin: Mapped[str | None] = mapped_column(String(255))
    store_metadata: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(_Time)


class KEK(Base):
    """A project's key encryption key, wrapped by a crypto plugin.

    ``active`` is true or null, never false, so that the unique constraint allows one active key per plugin and any
    number of retired ones. ``master_key_id`` is null if the plugin does not name the master keys that it wraps with.
    """

    __tablename__ = "kek_data"
    __table_args__ = (
        UniqueConstraint("project_id", "plugin_name", "active"),
        Index("ix_kek_data_plugin_name_master_key_id", "plugin_name", "master_key_id"),
        _MYSQL,
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    plugin_name: Mapped[str] = mapped_column(String(255))
    kek_label: Mapped[str] = mapped_column(String(255))
    active: Mapped[bool | None] = mapped_column(Boolean)
    algorithm: Mapped[str] = mapped_column(String(255))
    bit_length: Mapped[int] = mapped_column(Integer)
    mode: Mapped[str] = mapped_column(String(255))
    plugin_meta: Mapped[str] = mapped_column(Text)
    master_key_id: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)


class CryptoCanary(Base):
    """A wrapped key of no project, one for each crypto plugin: it tells whose master keys this database needs.

    The primary key settles which of several processes that start on an empty database wrote it first.
    """

    __tablename__ = "crypto_canaries"

    plugin_name: Mapped[str] = mapped_column(String(255), primary_key=True)
    id: Mapped[str] = mapped_column(_Id)
    kek_label: Mapped[str] = mapped_column(String(255))
    algorithm: Mapped[str] = mapped_column(String(255))
    bit_length: Mapped[int] = mapped_column(Integer)
    mode: Mapped[str] = mapped_column(String(255))
    plugin_meta: Mapped[str] = mapped_column(Text)
    master_key_id: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)


class EncryptedDatum(Base):
    """The ciphertext of a secret whose store keeps it in this database."""

    __tablename__ = "encrypted_data"

    secret_id: Mapped[str] = mapped_column(ForeignKey("secrets.id", ondelete="CASCADE"), primary_key=True)
    kek_id: Mapped[str] = mapped_column(ForeignKey("kek_data.id"), index=True)
    cypher_text: Mapped[bytes] = mapped_column(_Bytes)
    kek_meta_extended: Mapped[str | None] = mapped_column(Text)


class Order(Base):
    """An order. What it made may be deleted later, hence no foreign keys to that."""

    __tablename__ = "orders"
    __table_args__ = (
        Index("ix_orders_project_id_created_at_id", "project_id", "created_at", "id"),
        _MYSQL,
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    type: Mapped[str] = mapped_column(String(36))
    meta: Mapped[str] = mapped_column(Text)
    creator_id: Mapped[str | None] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(20))
    sub_status: Mapped[str | None] = mapped_column(String(36))
    sub_status_message: Mapped[str | None] = mapped_column(String(255))
    error_status_code: Mapped[str | None] = mapped_column(String(16))
    error_reason: Mapped[str | None] = mapped_column(String(255))
    secret_id: Mapped[str | None] = mapped_column(_Id)
    container_id: Mapped[str | None] = mapped_column(_Id)
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(_Time, index=True)


class OrderRetryTask(Base):
    """What is still to be done for an order: its first task as well as any later one.

    The row is the promise, a queue message only a wake-up. It is made with its order, carries the lease of the worker
    that is at it, and goes when the order reaches a final state. ``retry_at`` is when the scheduler publishes it again
    if nothing happens before. ``waits_in`` is the lane in which it waits for a worker, and NULL while a worker has it
    or it is put off; ``project_id`` is the order's. ``written_at`` shows whether the clock was set back since.
    """

    __tablename__ = "order_retry_tasks"
    __table_args__ = (
        Index("ix_order_retry_tasks_waits_in_project_id_created_at", "waits_in", "project_id", "created_at"),
        _MYSQL,
    )

    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    retry_task: Mapped[str] = mapped_column(String(255))
    retry_kwargs: Mapped[str] = mapped_column(Text)
    retry_at: Mapped[datetime.datetime] = mapped_column(_Time, index=True)
    retry_count: Mapped[int] = mapped_column(Integer)
    lease: Mapped[str | None] = mapped_column(_Id)
    leased_until: Mapped[datetime.datetime | None] = mapped_column(_Time)
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)
    written_at: Mapped[datetime.datetime | None] = mapped_column(_Time, index=True)
    project_id: Mapped[str | None] = mapped_column(_Id)
    waits_in: Mapped[str | None] = mapped_column(String(16))


class OrderPassphrase(Base):
    """The passphrase of an order that is not done yet, encrypted like any payload; it goes when the order is done."""

    __tablename__ = "order_passphrases"

    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    store_plugin: Mapped[str] = mapped_column(String(255))
    store_metadata: Mapped[str] = mapped_column(Text)
    kek_id: Mapped[str | None] = mapped_column(ForeignKey("kek_data.id"), index=True)
    cypher_text: Mapped[bytes | None] = mapped_column(_Bytes)
    kek_meta_extended: Mapped[str | None] = mapped_column(Text)


class Container(Base):
    __tablename__ = "containers"
    __table_args__ = (
        Index("ix_containers_project_id_created_at_id", "project_id", "created_at", "id"),
        _MYSQL,
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str | None] = mapped_column(_FreeText)
    type: Mapped[str] = mapped_column(String(36))
    creator_id: Mapped[str | None] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(_Time)


class ContainerSecret(Base):
    """A secret in a container, under a name or none."""

    __tablename__ = "container_secret"

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    container_id: Mapped[str] = mapped_column(ForeignKey("containers.id", ondelete="CASCADE"), index=True)
    secret_id: Mapped[str] = mapped_column(ForeignKey("secrets.id", ondelete="CASCADE"), index=True)
    name: Mapped[str | None] = mapped_column(_FreeText)


class SecretUserMetadatum(Base):
    __tablename__ = "secret_user_metadata"

    secret_id: Mapped[str] = mapped_column(ForeignKey("secrets.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    value: Mapped[str] = mapped_column(_FreeText)


class _Consumer:
    """Who uses an object. ``digest`` stands for all that the consumer said of itself: that is too long for an index."""

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    digest: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(_Time)


class SecretConsumer(_Consumer, Base):
    __tablename__ = "secret_consumer_metadata"
    __table_args__ = (
        UniqueConstraint("object_id", "digest"),
        Index("ix_secret_consumer_metadata_object_id_created_at_id", "object_id", "created_at", "id"),
        Index("ix_secret_consumer_metadata_project_id_object_id", "project_id", "object_id"),
        _MYSQL,
    )

    object_id: Mapped[str] = mapped_column(ForeignKey("secrets.id", ondelete="CASCADE"))
    service: Mapped[str] = mapped_column(_FreeText)
    resource_type: Mapped[str] = mapped_column(_FreeText)
    resource_id: Mapped[str] = mapped_column(_FreeText)


class ContainerConsumer(_Consumer, Base):
    __tablename__ = "container_consumer_metadata"
    __table_args__ = (
        UniqueConstraint("object_id", "digest"),
        Index("ix_container_consumer_metadata_object_id_created_at_id", "object_id", "created_at", "id"),
        Index("ix_container_consumer_metadata_project_id_object_id", "project_id", "object_id"),
        _MYSQL,
    )

    object_id: Mapped[str] = mapped_column(ForeignKey("containers.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(_FreeText)
    URL: Mapped[str] = mapped_column(_FreeText)


class Acl(Base):
    """Who may read an object, a secret or a container; without a row, its project may.

    There is no foreign key, since it could be to either; whoever writes here has the object's row locked.
    """

    __tablename__ = "acls"

    object_id: Mapped[str] = mapped_column(_Id, primary_key=True)
    project_access: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(_Time)


class AclUser(Base):
    __tablename__ = "acl_users"

    object_id: Mapped[str] = mapped_column(ForeignKey("acls.object_id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(_FreeText, primary_key=True, index=True)


class ProjectQuota(Base):
    """A project's own quotas; what is null follows the configuration."""

    __tablename__ = "project_quotas"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    secrets: Mapped[int | None] = mapped_column(Integer)
    orders: Mapped[int | None] = mapped_column(Integer)
    containers: Mapped[int | None] = mapped_column(Integer)
    consumers: Mapped[int | None] = mapped_column(Integer)
    cas: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(_Time)


class IdempotencyKey(Base):
    """A key under which a user created something; the row goes with the object at the latest.

    ``digest`` is that of the key and the user. What the key is worth is known to nobody but them.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_project_id_created_at", "project_id", "created_at"), _MYSQL)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(255))
    object_type: Mapped[str] = mapped_column(String(20))
    object_id: Mapped[str] = mapped_column(_Id, index=True)
    transport_key_id: Mapped[str | None] = mapped_column(_Id)
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)


class TransportKey(Base):
    """A key with which clients wrap payloads for one secret store; of the deployment, not of a project.

    ``digest`` stands for plugin and key, which are too long for an index, in the row that stores give out.
    Administrators may add the same key again, without a digest.
    """

    __tablename__ = "transport_keys"
    __table_args__ = (
        Index("ix_transport_keys_created_at_id", "created_at", "id"),
        Index("ix_transport_keys_digest", "digest", unique=True),
        _MYSQL,
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    plugin_name: Mapped[str] = mapped_column(Text)
    transport_key: Mapped[str] = mapped_column(Text)
    digest: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(_Time)


class SecretStore(Base):
    """A configured backend for payloads, where several are configured; kept in line with the configuration.

    ``crypto_plugin`` is empty where there is none: to a unique index all nulls are different.
    """

    __tablename__ = "secret_stores"
    __table_args__ = (
        Index("ix_secret_stores_store_plugin_crypto_plugin", "store_plugin", "crypto_plugin", unique=True),
        _MYSQL,
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    store_plugin: Mapped[str] = mapped_column(String(255))
    crypto_plugin: Mapped[str | None] = mapped_column(String(255))
    global_default: Mapped[bool] = mapped_column(Boolean)
    name: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime.datetime] = mapped_column(_Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(_Time)


class ProjectSecretStore(Base):
    """The backend that a project prefers for what it stores from now on."""

    __tablename__ = "project_secret_store"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    secret_store_id: Mapped[str] = mapped_column(ForeignKey("secret_stores.id"), index=True)
