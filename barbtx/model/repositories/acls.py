"""Access control lists of secrets and containers."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import attrs
from sqlalchemy import ColumnElement, Label, SQLColumnExpression, delete, exists, insert, literal, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound
from barbtx.model import models
from barbtx.model.lookups import NamedRow
from barbtx.model.records import Access, Acl
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.projects import require_open
from barbtx.model.repositories.rows import affected_rows
from barbtx.times import utcnow

_A = models.Acl
_U = models.AclUser

#: The models of the objects that have an ACL, metadata and consumers.
OwnerModel: TypeAlias = type[models.Secret] | type[models.Container]


@attrs.frozen
class AclRepo(Repository):
    """The ACLs of one kind of object.

    :ivar owner: the model of the objects.
    """

    tables = "acls"

    owner: OwnerModel

    def get(self, object_id: str) -> Deferred[Acl | None]:
        """An object's ACL, or None if none was set."""
        return self._interact(lambda session: _find(session, object_id), write=False)

    def replace(self, object_id: str, project_access: bool, users: Iterable[str]) -> Deferred[None]:
        """Set an object's ACL.

        :raises NotFound: the object does not exist.
        :raises ProjectClosed: the object's project was deleted in Keystone.
        """
        return self._write(object_id, project_access, users)

    def merge(self, object_id: str, project_access: bool | None, users: Iterable[str] | None) -> Deferred[None]:
        """Change the parts of an object's ACL that are not None. Without an ACL, the project has access at first.

        :raises NotFound: the object does not exist.
        :raises ProjectClosed: the object's project was deleted in Keystone.
        """
        return self._write(object_id, project_access, users)

    def remove(self, object_id: str) -> Deferred[None]:
        """Delete an object's ACL, if it has one.

        :raises NotFound: the object does not exist.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            touch(session, self.owner, object_id, now)
            delete_acls(session, [object_id])

        return self._interact(work)

    def _write(self, object_id: str, project_access: bool | None, users: Iterable[str] | None) -> Deferred[None]:
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            touch_to_add(session, self.owner, object_id, now)
            changed = {"updated_at": now} | ({} if project_access is None else {"project_access": project_access})
            if affected_rows(session, update(_A).where(_A.object_id == object_id).values(**changed)) == 0:
                session.execute(
                    insert(_A).values(
                        object_id=object_id, project_access=project_access is not False, created_at=now, updated_at=now
                    )
                )
            if users is None:
                return
            session.execute(delete(_U).where(_U.object_id == object_id))
            rows = [{"object_id": object_id, "user_id": user} for user in dict.fromkeys(users)]
            if rows:
                session.execute(insert(_U), rows)

        return self._interact(work)


def touch(session: Session, owner: OwnerModel, object_id: str, now: datetime.datetime) -> None:
    """Set an object's time of change, which locks its row until the transaction ends.

    :raises NotFound: the object does not exist.
    """
    if affected_rows(session, update(owner).where(owner.id == object_id).values(updated_at=now)) != 1:
        raise NotFound("Secret not found." if owner is models.Secret else "Secrets container not found.")


def touch_to_add(session: Session, owner: OwnerModel, object_id: str, now: datetime.datetime) -> None:
    """Like :func:`touch`, for a transaction that adds something to the object.

    :raises NotFound: the object does not exist.
    :raises ProjectClosed: nothing can be added to the object's project.
    """
    touch(session, owner, object_id, now)
    require_open(session, owner, object_id, now)


def delete_acls(session: Session, object_ids: Sequence[str]) -> None:
    """Delete the ACLs of objects, where there are any."""
    session.execute(delete(_U).where(_U.object_id.in_(object_ids)))
    session.execute(delete(_A).where(_A.object_id.in_(object_ids)))


def access_columns(
    owner_id: SQLColumnExpression[str], user_id: str | ColumnElement[str] | None
) -> tuple[Label[bool], Label[bool]]:
    """Columns that describe a user's access to an object; :func:`access` reads them.

    :param user_id: None for a caller without a user.
    """
    listed: ColumnElement[bool] = literal(False)
    if user_id is not None:
        listed = exists().where(_U.object_id == owner_id, _U.user_id == user_id)
    project = select(_A.project_access).where(_A.object_id == owner_id).scalar_subquery()
    return project.label("project_access"), listed.label("listed")


def access(row: NamedRow) -> Access:
    """The access that a row with :func:`access_columns` describes."""
    return Access(project_access=row.project_access is None or bool(row.project_access), listed=bool(row.listed))


def is_listed(owner_id: SQLColumnExpression[str], user_id: str) -> ColumnElement[bool]:
    """The condition that an object's ACL names a user."""
    return owner_id.in_(select(_U.object_id).where(_U.user_id == user_id))


def _find(session: Session, object_id: str) -> Acl | None:
    row = session.execute(
        select(_A.project_access, _A.created_at, _A.updated_at).where(_A.object_id == object_id)
    ).first()
    if row is None:
        return None
    users = session.scalars(select(_U.user_id).where(_U.object_id == object_id).order_by(_U.user_id)).all()
    return Acl(
        project_access=bool(row.project_access), users=tuple(users), created=row.created_at, updated=row.updated_at
    )
