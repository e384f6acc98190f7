"""Orders, their pending tasks and passphrases."""

from __future__ import annotations

import datetime

from sqlalchemy import ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from barbtx.model.models.base import Base, Bytes, Id, Time


class Order(Base):
    """An order. It has no foreign keys to the objects that it generated, since these may be deleted later."""

    __tablename__ = "orders"
    __table_args__ = (Index("ix_orders_project_id_created_at_id", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    type: Mapped[str] = mapped_column(String(36))
    meta: Mapped[str] = mapped_column(Text)
    creator_id: Mapped[str | None] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(20))
    sub_status: Mapped[str | None] = mapped_column(String(36))
    sub_status_message: Mapped[str | None] = mapped_column(String(255))
    error_status_code: Mapped[str | None] = mapped_column(String(16))
    error_reason: Mapped[str | None] = mapped_column(String(255))
    secret_id: Mapped[str | None] = mapped_column(Id)
    container_id: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime.datetime] = mapped_column(Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(Time, index=True)


class OrderRetryTask(Base):
    """The pending task of an order, from its creation until the order reaches a final state.

    The row is the durable record of the work; a queue message only wakes a worker. It is inserted together with its
    order, holds the lease of the worker that processes it, and is deleted when the order reaches a final state.
    ``retry_at`` is when the scheduler publishes the task again unless something happens first. ``waits_in`` is the lane
    in which it waits for a worker; it is null while a worker holds it or a retry is scheduled. ``project_id`` is the
    order's. ``written_at`` reveals whether the clock was set back since the row was written.
    """

    __tablename__ = "order_retry_tasks"
    __table_args__ = (
        Index("ix_order_retry_tasks_waits_in_project_id_created_at", "waits_in", "project_id", "created_at"),
    )

    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    retry_task: Mapped[str] = mapped_column(String(255))
    retry_kwargs: Mapped[str] = mapped_column(Text)
    retry_at: Mapped[datetime.datetime] = mapped_column(Time, index=True)
    retry_count: Mapped[int] = mapped_column(Integer)
    lease: Mapped[str | None] = mapped_column(Id)
    leased_until: Mapped[datetime.datetime | None] = mapped_column(Time)
    created_at: Mapped[datetime.datetime] = mapped_column(Time)
    written_at: Mapped[datetime.datetime | None] = mapped_column(Time, index=True)
    project_id: Mapped[str | None] = mapped_column(Id)
    waits_in: Mapped[str | None] = mapped_column(String(16))


class OrderPassphrase(Base):
    """The passphrase of a pending order, encrypted as payloads are. It is deleted when the order is finished."""

    __tablename__ = "order_passphrases"

    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    store_plugin: Mapped[str] = mapped_column(String(255))
    store_metadata: Mapped[str] = mapped_column(Text)
    kek_id: Mapped[str | None] = mapped_column(ForeignKey("kek_data.id"), index=True)
    cypher_text: Mapped[bytes | None] = mapped_column(Bytes)
    kek_meta_extended: Mapped[str | None] = mapped_column(Text)
