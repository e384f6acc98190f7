"""Consumers of secrets and containers."""

from __future__ import annotations

import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from barbtx.model.models.base import Base, FreeText, Id, Time


class _Consumer:
    """Columns that consumers of secrets and of containers share.

    ``digest`` covers all fields that identify the consumer, which are too long for an index. ``project_id`` is the
    project that registered it.
    """

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    digest: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime.datetime] = mapped_column(Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(Time)


class SecretConsumer(_Consumer, Base):
    """A consumer of a secret; ``object_id`` is the secret's id."""

    __tablename__ = "secret_consumer_metadata"
    __table_args__ = (
        UniqueConstraint("object_id", "digest"),
        Index("ix_secret_consumer_metadata_object_id_created_at_id", "object_id", "created_at", "id"),
        Index("ix_secret_consumer_metadata_project_id_object_id", "project_id", "object_id"),
    )

    object_id: Mapped[str] = mapped_column(ForeignKey("secrets.id", ondelete="CASCADE"))
    service: Mapped[str] = mapped_column(FreeText)
    resource_type: Mapped[str] = mapped_column(FreeText)
    resource_id: Mapped[str] = mapped_column(FreeText)


class ContainerConsumer(_Consumer, Base):
    """A consumer of a container; ``object_id`` is the container's id."""

    __tablename__ = "container_consumer_metadata"
    __table_args__ = (
        UniqueConstraint("object_id", "digest"),
        Index("ix_container_consumer_metadata_object_id_created_at_id", "object_id", "created_at", "id"),
        Index("ix_container_consumer_metadata_project_id_object_id", "project_id", "object_id"),
    )

    object_id: Mapped[str] = mapped_column(ForeignKey("containers.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(FreeText)
    URL: Mapped[str] = mapped_column(FreeText)
