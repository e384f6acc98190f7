"""Project keys, canaries of the master keys, and transport keys."""

from __future__ import annotations

import datetime

from sqlalchemy import Boolean, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from barbtx.model.models.base import Base, Id, Time


class KEK(Base):
    """A project key (KEK), wrapped by a crypto plugin.

    ``active`` is true or null, never false, so that the unique constraint allows one active key per project and plugin
    and any number of retired ones. ``master_key_id`` is null if the plugin does not name its master keys.
    """

    __tablename__ = "kek_data"
    __table_args__ = (
        UniqueConstraint("project_id", "plugin_name", "active"),
        Index("ix_kek_data_plugin_name_master_key_id", "plugin_name", "master_key_id"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    plugin_name: Mapped[str] = mapped_column(String(255))
    kek_label: Mapped[str] = mapped_column(String(255))
    active: Mapped[bool | None] = mapped_column(Boolean)
    algorithm: Mapped[str] = mapped_column(String(255))
    bit_length: Mapped[int] = mapped_column(Integer)
    mode: Mapped[str] = mapped_column(String(255))
    plugin_meta: Mapped[str] = mapped_column(Text)
    master_key_id: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime.datetime] = mapped_column(Time)


class CryptoCanary(Base):
    """A wrapped key that belongs to no project, one for each crypto plugin.

    At startup the plugin unwraps it, which proves that the process has the master keys that this database needs. The
    primary key decides which of several processes that start on an empty database writes it.
    """

    __tablename__ = "crypto_canaries"

    plugin_name: Mapped[str] = mapped_column(String(255), primary_key=True)
    id: Mapped[str] = mapped_column(Id)
    kek_label: Mapped[str] = mapped_column(String(255))
    algorithm: Mapped[str] = mapped_column(String(255))
    bit_length: Mapped[int] = mapped_column(Integer)
    mode: Mapped[str] = mapped_column(String(255))
    plugin_meta: Mapped[str] = mapped_column(Text)
    master_key_id: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime.datetime] = mapped_column(Time)


class TransportKey(Base):
    """A key with which clients wrap payloads for one secret store. It belongs to the deployment, not to a project.

    ``digest`` covers plugin and key, which are too long for an index; it is set in the row that the store hands out.
    Further rows with the same key, which administrators may add, have no digest.
    """

    __tablename__ = "transport_keys"
    __table_args__ = (
        Index("ix_transport_keys_created_at_id", "created_at", "id"),
        Index("ix_transport_keys_digest", "digest", unique=True),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    plugin_name: Mapped[str] = mapped_column(Text)
    transport_key: Mapped[str] = mapped_column(Text)
    digest: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime.datetime] = mapped_column(Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(Time)
