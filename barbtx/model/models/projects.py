"""Projects, their quotas and their removal."""

from __future__ import annotations

import datetime

from sqlalchemy import ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from barbtx.model.models.base import Base, Id, Time


class Project(Base):
    """A Keystone project that has, or had, objects in barbtx. ``external_id`` is Keystone's id."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    external_id: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime.datetime] = mapped_column(Time)


class ProjectQuota(Base):
    """A project's own quotas. Null means the configured default."""

    __tablename__ = "project_quotas"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    secrets: Mapped[int | None] = mapped_column(Integer)
    orders: Mapped[int | None] = mapped_column(Integer)
    containers: Mapped[int | None] = mapped_column(Integer)
    consumers: Mapped[int | None] = mapped_column(Integer)
    cas: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime.datetime] = mapped_column(Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(Time)


class ProjectRemoval(Base):
    """A project that is reported as deleted in Keystone, by Keystone's id. It has no foreign key to ``projects``.

    ``due_at`` is null until Keystone confirms the deletion; from then on the project is closed and nothing can be added
    to it. ``kept_until`` is set once everything is removed; the project stays closed until then, because its tokens may
    still be cached.
    """

    __tablename__ = "project_removals"

    project_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    requested_at: Mapped[datetime.datetime] = mapped_column(Time)
    due_at: Mapped[datetime.datetime | None] = mapped_column(Time)
    kept_until: Mapped[datetime.datetime | None] = mapped_column(Time)
    retry_at: Mapped[datetime.datetime] = mapped_column(Time, index=True)
    attempts: Mapped[int] = mapped_column(Integer)
    problem: Mapped[str | None] = mapped_column(String(255))
    lease: Mapped[str | None] = mapped_column(Id)
    leased_until: Mapped[datetime.datetime | None] = mapped_column(Time)
