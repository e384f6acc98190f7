"""Projects: a row for each Keystone project that has objects here."""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from sqlalchemy import ColumnElement, and_, bindparam, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from barbtx.errors import ProjectClosed
from barbtx.model import models
from barbtx.model.lookups import AnySelect
from barbtx.model.models import Project, ProjectRemoval
from barbtx.model.transaction import ConcurrentChange

T = TypeVar("T")


def find_or_create(
    session: Session,
    find: Callable[[], T | None],
    create: Callable[[], T],
    race_hook: Callable[[], None] = lambda: None,
) -> T:
    """Find a row or create it; if another transaction creates it first, find that one.

    A constraint must make the second creation fail, and a ``find`` after that failure must see the other row.

    :param create: inserts the row and returns the value that ``find`` returns for it.
    :param race_hook: called between the search and the creation, so that tests can act as the other transaction.
    :raises ConcurrentChange: the row of the other transaction was deleted again.
    """
    found = find()
    if found is not None:
        return found
    race_hook()
    with contextlib.suppress(IntegrityError), session.begin_nested():
        return create()
    found = find()
    if found is None:
        raise ConcurrentChange
    return found


def project_key(
    session: Session, external_id: str, now: datetime.datetime, race_hook: Callable[[], None] = lambda: None
) -> str:
    """The primary key of a project to which something is added; the project's row is created if it is missing.

    :param external_id: the Keystone project id, at most 255 characters.
    :raises ProjectClosed: nothing can be added to the project.
    """

    def find() -> str | None:
        row = session.execute(_with_removal(), {"external_id": external_id, "now": now}).first()
        if row is None:
            return None
        if row.removal is not None:
            raise ProjectClosed
        key: str = row.id
        return key

    def create() -> str:
        # A removed project has no row until its removal record expires, and must not get a new one before that.
        if is_closed(session, external_id, now):
            raise ProjectClosed
        return _insert(session, external_id, now)

    return find_or_create(session, find, create, race_hook)


@lru_cache
def _with_removal() -> AnySelect:
    """The query of a project and of the removal that closes it. Making it takes longer than executing it."""
    now = bindparam("now", type_=ProjectRemoval.kept_until.type)
    return (
        select(Project.id, ProjectRemoval.project_id.label("removal"))
        .outerjoin(ProjectRemoval, and_(ProjectRemoval.project_id == Project.external_id, closes(now)))
        .where(Project.external_id == bindparam("external_id"))
    )


def find_project(session: Session, external_id: str) -> str | None:
    """The primary key of a project, or None if it has no row."""
    return session.scalar(select(Project.id).where(Project.external_id == external_id))


def ensure_project(session: Session, external_id: str, now: datetime.datetime) -> None:
    """Create a project's row if it is missing, whether or not anything can be added to the project."""
    find_or_create(session, lambda: find_project(session, external_id), lambda: _insert(session, external_id, now))


def is_closed(session: Session, external_id: str, now: datetime.datetime) -> bool:
    """Whether nothing can be added to a project because it was deleted in Keystone."""
    return (
        session.scalar(select(ProjectRemoval.project_id).where(ProjectRemoval.project_id == external_id, closes(now)))
        is not None
    )


def require_open(
    session: Session, owner: type[models.Secret] | type[models.Container], object_id: str, now: datetime.datetime
) -> None:
    """Check that something can be added to an object's project.

    :param owner: the object's model.
    :raises ProjectClosed: nothing can be added to the project.
    """
    closed = session.scalar(
        select(ProjectRemoval.project_id)
        .join(Project, Project.external_id == ProjectRemoval.project_id)
        .join(owner, owner.project_id == Project.id)
        .where(owner.id == object_id, closes(now))
    )
    if closed is not None:
        raise ProjectClosed


def closes(now: datetime.datetime | ColumnElement[datetime.datetime]) -> ColumnElement[bool]:
    """The condition under which a row of :class:`ProjectRemoval` closes its project."""
    return and_(
        ProjectRemoval.due_at.is_not(None), or_(ProjectRemoval.kept_until.is_(None), ProjectRemoval.kept_until > now)
    )


def _insert(session: Session, external_id: str, now: datetime.datetime) -> str:
    key = str(uuid.uuid4())
    session.execute(insert(Project).values(id=key, external_id=external_id, created_at=now))
    return key
