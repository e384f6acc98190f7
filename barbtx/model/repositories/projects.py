"""Projects: a row for each Keystone project that has something here."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from barbtx.model.database import Raced
from barbtx.model.models import Project

T = TypeVar("T")


def find_or_create(session: Session, find: Callable[[], T | None], create: Callable[[], None],
                   race_hook: Callable[[], None] = lambda: None) -> T:
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
        raise Raced
    return found


def project_key(session: Session, external_id: str, now: datetime.datetime,
                race_hook: Callable[[], None] = lambda: None) -> str:
    """The primary key of a project, which is created if it is not known yet.

    :param external_id: the Keystone project id, at most 255 characters.
    """
    return find_or_create(
        session,
        lambda: session.scalar(select(Project.id).where(Project.external_id == external_id)),
        lambda: session.execute(insert(Project).values(
            id=str(uuid.uuid4()), external_id=external_id, created_at=now)),
        race_hook,
    )
