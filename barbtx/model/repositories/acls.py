"""Access control lists of secrets and containers."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

import attrs
from sqlalchemy import ColumnElement, delete, exists, insert, literal, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound
from barbtx.model import models
from barbtx.model.database import Tables, in_tables
from barbtx.model.records import Access, Acl
from barbtx.model.repositories.projects import require_open
from barbtx.times import Clock, utcnow

_A = models.Acl
_U = models.AclUser


@attrs.frozen
class AclRepo:
    """The ACLs of one kind of object.

    :ivar owner: the model of the objects.
    """

    database: Tables = attrs.field(converter=in_tables("acls"))
    clock: Clock
    owner: type[models.Secret] | type[models.Container]

    def get(self, object_id: str) -> Deferred[Acl | None]:
        """An object's ACL, if one was set."""
        return self.database.interact(lambda session: _find(session, object_id), write=False)

    def replace(self, object_id: str, project_access: bool, users: Iterable[str]) -> Deferred[None]:
        """Set an ACL, whatever it was before.

        :raises NotFound: the object is gone.
        :raises ProjectClosed: its project was deleted in Keystone.
        """
        return self._write(object_id, project_access, users)

    def merge(self, object_id: str, project_access: bool | None, users: Iterable[str] | None) -> Deferred[None]:
        """Change what is not None; an ACL that was not set before starts as one that allows the project.

        :raises NotFound: the object is gone.
        :raises ProjectClosed: its project was deleted in Keystone.
        """
        return self._write(object_id, project_access, users)

    def remove(self, object_id: str) -> Deferred[None]:
        """Forget an ACL; one that was not set is no error.

        :raises NotFound: the object is gone.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            touch(session, self.owner, object_id, now)
            delete_acls(session, [object_id])

        return self.database.interact(work)

    def _write(self, object_id: str, project_access: bool | None, users: Iterable[str] | None) -> Deferred[None]:
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            touch_to_add(session, self.owner, object_id, now)
            changed = {"updated_at": now} | ({} if project_access is None else {"project_access": project_access})
            if session.execute(update(_A).where(_A.object_id == object_id).values(**changed)).rowcount == 0:
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

        return self.database.interact(work)


def touch(
    session: Session, owner: type[models.Secret] | type[models.Container], object_id: str, now: datetime.datetime
) -> None:
    """Move an object's time of change, and hold its row until the transaction ends.

    :raises NotFound: it is gone.
    """
    if session.execute(update(owner).where(owner.id == object_id).values(updated_at=now)).rowcount != 1:
        raise NotFound("Secret not found." if owner is models.Secret else "Secrets container not found.")


def touch_to_add(
    session: Session, owner: type[models.Secret] | type[models.Container], object_id: str, now: datetime.datetime
) -> None:
    """As :func:`touch`, for what adds something to the object.

    :raises NotFound: it is gone.
    :raises ProjectClosed: nothing can be added to its project.
    """
    touch(session, owner, object_id, now)
    require_open(session, owner, object_id, now)


def delete_acls(session: Session, object_ids: Sequence[str]) -> None:
    """Delete the ACLs of objects, where there are any."""
    session.execute(delete(_U).where(_U.object_id.in_(object_ids)))
    session.execute(delete(_A).where(_A.object_id.in_(object_ids)))


def access_columns(
    owner_id: ColumnElement[str], user_id: str | ColumnElement[str] | None
) -> tuple[ColumnElement, ColumnElement]:
    """Columns that say what an object's ACL means to a user; :func:`access` makes sense of them."""
    listed = exists().where(_U.object_id == owner_id, _U.user_id == user_id) if user_id is not None else literal(False)
    project = select(_A.project_access).where(_A.object_id == owner_id).scalar_subquery()
    return project, listed


def access(project_access: bool | None, listed: bool) -> Access:
    return Access(project_access is not False and project_access != 0, bool(listed))


def is_listed(owner_id: ColumnElement[str], user_id: str) -> ColumnElement[bool]:
    """Condition: a user is named in an object's ACL."""
    return owner_id.in_(select(_U.object_id).where(_U.user_id == user_id))


def _find(session: Session, object_id: str) -> Acl | None:
    row = session.execute(
        select(_A.project_access, _A.created_at, _A.updated_at).where(_A.object_id == object_id)
    ).first()
    if row is None:
        return None
    users = session.scalars(select(_U.user_id).where(_U.object_id == object_id).order_by(_U.user_id)).all()
    return Acl(bool(row.project_access), tuple(users), row.created_at, row.updated_at)
