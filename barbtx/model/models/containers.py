"""Containers and the secrets in them."""

from __future__ import annotations

import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from barbtx.model.models.base import Base, FreeText, Id, Time


class Container(Base):
    """A named group of a project's secrets."""

    __tablename__ = "containers"
    __table_args__ = (Index("ix_containers_project_id_created_at_id", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str | None] = mapped_column(FreeText)
    type: Mapped[str] = mapped_column(String(36))
    creator_id: Mapped[str | None] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime.datetime] = mapped_column(Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(Time)


class ContainerSecret(Base):
    """A secret in a container, with an optional name."""

    __tablename__ = "container_secret"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    container_id: Mapped[str] = mapped_column(ForeignKey("containers.id", ondelete="CASCADE"), index=True)
    secret_id: Mapped[str] = mapped_column(ForeignKey("secrets.id", ondelete="CASCADE"), index=True)
    name: Mapped[str | None] = mapped_column(FreeText)
