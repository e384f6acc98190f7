"""Projects: a row for each Keystone project that has something here."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from barbtx.errors import ProjectClosed
from barbtx.model.database import ConcurrentChange
from barbtx.model.models import Project, ProjectRemoval

T = TypeVar("T")


def find_or_create(
    session: Session,
    find: Callable[[], T | None],
    create: Callable[[], None],
    race_hook: Callable[[], None] = lambda: None,
) -> T:
    """Find a row, or make it; if another transaction makes it first, find that one.

    A constraint must make the second creation fail, and a ``find`` that comes after it must see the other's row.

    :param race_hook: called between the search and the creation, for tests to be that other transaction.
    :raises Raced: the other transaction's row is gone again.
    """
    found = find()
    if found is not None:
        return found
    race_hook()
    try:
        with session.begin_nested():
            create()
    except IntegrityError:
        pass
    found = find()
    if found is None:
        raise ConcurrentChange
    return found


def project_key(
    session: Session, external_id: str, now: datetime.datetime, race_hook: Callable[[], None] = lambda: None
) -> str:
    """The primary key of a project to which something is to be added; it is created if it is not known yet.

    :param external_id: the Keystone project id, at most 255 characters.
    :raises ProjectClosed: nothing can be added to it.
    """

    def find() -> str | None:
        row = session.execute(
            select(Project.id, ProjectRemoval.project_id)
            .outerjoin(ProjectRemoval, and_(ProjectRemoval.project_id == Project.external_id, closes(now)))
            .where(Project.external_id == external_id)
        ).first()
        if row is not None and row[1] is not None:
            raise ProjectClosed
        return row[0] if row else None

    def create() -> None:
        # After its removal a project has no row for a while, and must not get one.
        if is_closed(session, external_id, now):
            raise ProjectClosed
        _insert(session, external_id, now)

    return find_or_create(session, find, create, race_hook)


def find_project(session: Session, external_id: str) -> str | None:
    """The primary key of a project, if it is known."""
    return session.scalar(select(Project.id).where(Project.external_id == external_id))


def ensure_project(session: Session, external_id: str, now: datetime.datetime) -> None:
    """Make sure that a project has a row, whether or not anything can be added to it."""
    find_or_create(session, lambda: find_project(session, external_id), lambda: _insert(session, external_id, now))


def is_closed(session: Session, external_id: str, now: datetime.datetime) -> bool:
    """Whether nothing can be added to a project, since Keystone has deleted it."""
    return (
        session.scalar(select(ProjectRemoval.project_id).where(ProjectRemoval.project_id == external_id, closes(now)))
        is not None
    )


def require_open(session: Session, owner: Any, object_id: str, now: datetime.datetime) -> None:
    """Make sure that something can be added to an object of a project.

    :param owner: the object's model.
    :raises ProjectClosed: nothing can be added to its project.
    """
    closed = session.scalar(
        select(ProjectRemoval.project_id)
        .join(Project, Project.external_id == ProjectRemoval.project_id)
        .join(owner, owner.project_id == Project.id)
        .where(owner.id == object_id, closes(now))
    )
    if closed is not None:
        raise ProjectClosed


def closes(now: datetime.datetime) -> ColumnElement[bool]:
    """Whether a row of :class:`ProjectRemoval` closes its project."""
    return and_(
        ProjectRemoval.due_at.is_not(None), or_(ProjectRemoval.kept_until.is_(None), ProjectRemoval.kept_until > now)
    )


def _insert(session: Session, external_id: str, now: datetime.datetime) -> None:
    session.execute(insert(Project).values(id=str(uuid.uuid4()), external_id=external_id, created_at=now))
