"""Idempotency keys."""

from __future__ import annotations

import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from barbtx.model.models.base import Base, Id, Time


class IdempotencyKey(Base):
    """A key under which a user created an object. The row is deleted with the object at the latest.

    ``digest`` covers the key and the user, so that the database does not reveal the key. ``fingerprint`` identifies the
    request, so that another request under the same key is recognized.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_project_id_created_at", "project_id", "created_at"),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(255))
    object_type: Mapped[str] = mapped_column(String(20))
    object_id: Mapped[str] = mapped_column(Id, index=True)
    transport_key_id: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime.datetime] = mapped_column(Time)
