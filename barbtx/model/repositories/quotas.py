"""Project quotas and their enforcement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs
from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound, QuotaReached
from barbtx.model import models
from barbtx.model.models import Project, ProjectQuota
from barbtx.model.records import Page
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.projects import find_or_create, project_key
from barbtx.model.repositories.rows import affected_rows
from barbtx.times import utcnow

#: The kinds of objects that quotas limit.
RESOURCES = ("secrets", "orders", "containers", "consumers", "cas")
_COLUMNS = tuple(getattr(ProjectQuota, name) for name in RESOURCES)

#: Quotas by resource; None means the configured default.
Quotas: TypeAlias = Mapping[str, int | None]
#: A function that counts a project's objects, given the project's primary key.
Counter: TypeAlias = Callable[[Session, str], int]


@attrs.frozen
class QuotaRepo(Repository):
    """The quotas of all projects.

    :ivar defaults: the quotas of projects without their own, by resource; negative is unlimited.
    """

    tables = "quotas"

    defaults: Mapping[str, int]

    def effective(self, project_id: str) -> Deferred[dict[str, int]]:
        """The quotas that apply to a project, defaults included.

        :param project_id: external id.
        """

        def work(session: Session) -> dict[str, int]:
            own = {name: quota for name, quota in (_own(session, project_id) or {}).items() if quota is not None}
            return {name: own.get(name, self.defaults[name]) for name in RESOURCES}

        return self._interact(work, write=False)

    def get(self, project_id: str) -> Deferred[Quotas | None]:
        """A project's own quotas, or None if it has none."""
        return self._interact(lambda session: _own(session, project_id), write=False)

    def list_page(self, limit: int, offset: int) -> Deferred[Page[tuple[str, Quotas]]]:
        """A page of all projects' own quotas, oldest first, with the projects' external ids."""

        def work(session: Session) -> Page[tuple[str, Quotas]]:
            total = session.execute(select(func.count()).select_from(ProjectQuota)).scalar_one()
            rows = session.execute(
                select(Project.external_id, *_COLUMNS)
                .join(Project, Project.id == ProjectQuota.project_id)
                .order_by(ProjectQuota.created_at, ProjectQuota.project_id)
                .limit(limit)
                .offset(offset)
            )
            return Page(tuple((row.external_id, _quotas(row)) for row in rows), total)

        return self._interact(work, write=False, listing=True)

    def merge(self, project_id: str, quotas: Mapping[str, int]) -> Deferred[None]:
        """Set some of a project's own quotas.

        :raises ProjectClosed: the project was deleted in Keystone.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            project = project_key(session, project_id, now)

            def create() -> str:
                session.execute(insert(ProjectQuota).values(project_id=project, created_at=now, updated_at=now))
                return project

            find_or_create(
                session,
                lambda: session.scalar(select(ProjectQuota.project_id).where(ProjectQuota.project_id == project)),
                create,
            )
            session.execute(
                update(ProjectQuota).where(ProjectQuota.project_id == project).values(updated_at=now, **quotas)
            )

        return self._interact(work)

    def delete(self, project_id: str) -> Deferred[None]:
        """Delete a project's own quotas.

        :raises NotFound: it has none.
        """

        def work(session: Session) -> None:
            project = select(Project.id).where(Project.external_id == project_id).scalar_subquery()
            if affected_rows(session, delete(ProjectQuota).where(ProjectQuota.project_id == project)) != 1:
                raise NotFound("Not Found. Sorry, no project quotas are set for this project.")

        return self._interact(work)


def enforce_quota(session: Session, project: str, resource: str, default: int, count: Counter) -> None:
    """Check that a project may have one more object of a kind.

    If the project has a limit, its row is locked until the transaction ends, so that concurrent creations are counted
    in turn. Without a limit, nothing is locked.

    :param project: primary key.
    :param resource: one of :data:`RESOURCES`.
    :param default: the quota of projects without their own; negative is unlimited.
    :raises QuotaReached: the project has as many objects as it may have.
    """
    own = session.scalar(select(getattr(ProjectQuota, resource)).where(ProjectQuota.project_id == project))
    limit = default if own is None else own
    if limit < 0:
        return
    # FOR NO KEY UPDATE in PostgreSQL: foreign keys of other transactions to this row need not wait.
    session.execute(select(Project.id).where(Project.id == project).with_for_update(key_share=True))
    if count(session, project) >= limit:
        raise QuotaReached


def count_of(
    model: type[models.Order] | type[models.Container] | type[models.SecretConsumer] | type[models.ContainerConsumer],
) -> Counter:
    """A function that counts a project's rows of a model."""
    return lambda session, project: session.execute(
        select(func.count()).select_from(model).where(model.project_id == project)
    ).scalar_one()


def _own(session: Session, project_id: str) -> Quotas | None:
    row = session.execute(
        select(*_COLUMNS).join(Project, Project.id == ProjectQuota.project_id).where(Project.external_id == project_id)
    ).first()
    return _quotas(row) if row else None


def _quotas(row: Row[*tuple[Any, ...]]) -> dict[str, int | None]:
    return {name: row._mapping[name] for name in RESOURCES}
