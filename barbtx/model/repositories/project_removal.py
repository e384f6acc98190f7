"""Removing everything that a project has here, in batches."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.records import NewSecret
from barbtx.model.repositories.containers import delete_containers
from barbtx.model.repositories.orders import delete_orders
from barbtx.model.repositories.secrets import delete_secrets, payloads_of

# What hangs on a project's row itself; there is not much of it.
_OF_THE_PROJECT = (models.ProjectQuota, models.ProjectSecretStore, models.KEK, models.IdempotencyKey)


@attrs.frozen
class ProjectRemovalRepo:
    """The steps of a removal. Each may be repeated; a project that is not there has nothing."""

    database: Database

    def secrets(self, project_id: str, limit: int) -> Deferred[list[NewSecret]]:
        """Some of a project's secrets, expired ones too, with no more of them than where their payloads are.

        :param project_id: external id.
        """
        def work(session: Session) -> list[NewSecret]:
            project = _key(session, project_id)
            found = payloads_of(session, project, limit) if project else []
            return [NewSecret(id, project_id, payload=payload) for id, payload in found]

        return self.database.interact(work, write=False)

    def remove_secrets(self, ids: Sequence[str]) -> Deferred[None]:
        """Remove secrets with everything below them."""
        return self.database.interact(lambda session: delete_secrets(session, ids))

    def remove_rest(self, project_id: str, limit: int) -> Deferred[bool]:
        """Remove some of what else a project has and, once that is all, the project; whether it is gone.

        :param limit: rows of each kind at most.
        """
        def work(session: Session) -> bool:
            project = _key(session, project_id)
            if project is None:
                return True
            for model, remove in ((models.Order, delete_orders), (models.Container, delete_containers)):
                ids = session.scalars(select(model.id).where(model.project_id == project).limit(limit)).all()
                if ids:
                    remove(session, ids)
                    return False
            for model in (models.SecretConsumer, models.ContainerConsumer):
                ids = session.scalars(select(model.id).where(model.project_id == project).limit(limit)).all()
                if ids:
                    session.execute(delete(model).where(model.id.in_(ids)))
                    return False
            return _remove_project(session, project)

        return self.database.interact(work)


def _key(session: Session, project_id: str) -> str | None:
    return session.scalar(select(models.Project.id).where(models.Project.external_id == project_id))


def _remove_project(session: Session, project: str) -> bool:
    """Remove a project's row, unless something came to it in the meantime."""
    try:
        with session.begin_nested():
            for model in _OF_THE_PROJECT:
                session.execute(delete(model).where(model.project_id == project))
            session.execute(delete(models.Project).where(models.Project.id == project))
    except IntegrityError:
        return False
    return True
