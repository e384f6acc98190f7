"""Access control lists."""

from __future__ import annotations

import datetime

from sqlalchemy import Boolean, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from barbtx.model.models.base import Base, FreeText, Id, Time


class Acl(Base):
    """The access control list of a secret or a container. Without a row, every member of its project may read it.

    ``object_id`` has no foreign key, because it may refer to either table. Transactions that write this table hold a
    lock on the object's row.
    """

    __tablename__ = "acls"

    object_id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_access: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime.datetime] = mapped_column(Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(Time)


class AclUser(Base):
    """A user whom an ACL allows to read the object."""

    __tablename__ = "acl_users"

    object_id: Mapped[str] = mapped_column(ForeignKey("acls.object_id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(FreeText, primary_key=True, index=True)
