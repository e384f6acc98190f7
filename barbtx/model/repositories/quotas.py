"""Project quotas, and their enforcement."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping

import attrs
from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound, QuotaReached
from barbtx.model import models
from barbtx.model.database import Tables, in_tables
from barbtx.model.models import Project, ProjectQuota
from barbtx.model.records import Page
from barbtx.model.repositories.projects import find_or_create, project_key
from barbtx.times import Clock, utcnow

RESOURCES = ("secrets", "orders", "containers", "consumers", "cas")
_COLUMNS = tuple(getattr(ProjectQuota, name) for name in RESOURCES)

Quotas = Mapping[str, int | None]


@attrs.frozen
class QuotaRepo:
    """:ivar defaults: what holds for a project that has no quota of its own; negative is unlimited."""

    database: Tables = attrs.field(converter=in_tables("quotas"))
    clock: Clock
    defaults: Mapping[str, int]

    def effective(self, project_id: str) -> Deferred[dict[str, int]]:
        """The quotas that hold for a project (external id)."""

        def work(session: Session) -> dict[str, int]:
            own = _own(session, project_id) or {}
            return {name: self.defaults[name] if own.get(name) is None else own[name] for name in RESOURCES}

        return self.database.interact(work, write=False)

    def get(self, project_id: str) -> Deferred[Quotas | None]:
        """A project's own quotas, if it has any."""
        return self.database.interact(lambda session: _own(session, project_id), write=False)

    def list_page(self, limit: int, offset: int) -> Deferred[Page[tuple[str, Quotas]]]:
        """A page of all projects' own quotas, oldest first."""

        def work(session: Session) -> Page[tuple[str, Quotas]]:
            total = session.scalar(select(func.count()).select_from(ProjectQuota))
            rows = session.execute(
                select(Project.external_id, *_COLUMNS)
                .join(Project, Project.id == ProjectQuota.project_id)
                .order_by(ProjectQuota.created_at, ProjectQuota.project_id)
                .limit(limit)
                .offset(offset)
            )
            return Page(tuple((row[0], dict(zip(RESOURCES, row[1:]))) for row in rows), total)

        return self.database.interact(work, write=False, listing=True)

    def merge(self, project_id: str, quotas: Mapping[str, int]) -> Deferred[None]:
        """Set some of a project's own quotas."""
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            project = project_key(session, project_id, now)
            find_or_create(
                session,
                lambda: session.scalar(select(ProjectQuota.project_id).where(ProjectQuota.project_id == project)),
                lambda: session.execute(
                    insert(ProjectQuota).values(project_id=project, created_at=now, updated_at=now)
                ),
            )
            session.execute(
                update(ProjectQuota).where(ProjectQuota.project_id == project).values(updated_at=now, **quotas)
            )

        return self.database.interact(work)

    def delete(self, project_id: str) -> Deferred[None]:
        """Forget a project's own quotas.

        :raises NotFound: it has none.
        """

        def work(session: Session) -> None:
            project = select(Project.id).where(Project.external_id == project_id).scalar_subquery()
            if session.execute(delete(ProjectQuota).where(ProjectQuota.project_id == project)).rowcount != 1:
                raise NotFound("Not Found. Sorry, no project quotas are set for this project.")

        return self.database.interact(work)


def _own(session: Session, project_id: str) -> dict[str, int | None] | None:
    row = session.execute(
        select(*_COLUMNS).join(Project, Project.id == ProjectQuota.project_id).where(Project.external_id == project_id)
    ).first()
    return dict(zip(RESOURCES, row)) if row else None


def enforce(session: Session, project: str, resource: str, default: int, count: Callable[[Session, str], int]) -> None:
    """Make sure that a project may have one more of something.

    A limited project's row is locked until the transaction ends, so that of concurrent creations each counts the ones
    before it. Nobody waits where there is no limit.

    :param project: primary key.
    :param count: how many a project has, in a session.
    :raises QuotaReached: it may not.
    """
    own = session.scalar(select(getattr(ProjectQuota, resource)).where(ProjectQuota.project_id == project))
    limit = default if own is None else own
    if limit < 0:
        return
    session.execute(select(Project.id).where(Project.id == project).with_for_update())
    if count(session, project) >= limit:
        raise QuotaReached


def count_secrets(now: datetime.datetime) -> Callable[[Session, str], int]:
    secret = models.Secret
    return lambda session, project: session.scalar(
        select(func.count())
        .select_from(secret)
        .where(secret.project_id == project, or_(secret.expiration.is_(None), secret.expiration > now))
    )


def count_of(model: type) -> Callable[[Session, str], int]:
    return lambda session, project: session.scalar(
        select(func.count()).select_from(model).where(model.project_id == project)
    )
