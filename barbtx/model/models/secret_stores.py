"""Configured backends and the preferences of projects."""

from __future__ import annotations

import datetime

from sqlalchemy import Boolean, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from barbtx.model.models.base import Base, Id, Time


class SecretStore(Base):
    """A configured backend, where several are configured. Each startup synchronizes the table with the configuration.

    ``crypto_plugin`` is empty, not null, if the backend has none: a unique index treats nulls as different.
    """

    __tablename__ = "secret_stores"
    __table_args__ = (
        Index("ix_secret_stores_store_plugin_crypto_plugin", "store_plugin", "crypto_plugin", unique=True),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    store_plugin: Mapped[str] = mapped_column(String(255))
    crypto_plugin: Mapped[str | None] = mapped_column(String(255))
    global_default: Mapped[bool] = mapped_column(Boolean)
    name: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime.datetime] = mapped_column(Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(Time)


class ProjectSecretStore(Base):
    """The backend that a project prefers for new payloads."""

    __tablename__ = "project_secret_store"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    secret_store_id: Mapped[str] = mapped_column(ForeignKey("secret_stores.id"), index=True)
