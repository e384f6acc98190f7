"""Removing everything that a project has here, in batches."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import attrs
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.model import models
from barbtx.model.database import Tables, in_tables
from barbtx.model.records import NewSecret, RemovalClaim, StoredPayload
from barbtx.model.repositories.containers import delete_containers
from barbtx.model.repositories.orders import delete_orders, find_passphrase
from barbtx.model.repositories.pending_removals import finish, hold
from barbtx.model.repositories.projects import find_project
from barbtx.model.repositories.secrets import delete_secrets, payloads_of
from barbtx.times import Clock, utcnow

# What hangs on a project's row itself; there is not much of it.
_OF_THE_PROJECT = (models.ProjectQuota, models.ProjectSecretStore, models.KEK, models.IdempotencyKey)


@attrs.frozen
class ProjectRemovalRepo:
    """The steps of a removal. Each may be repeated; a project that is not there has nothing.

    What changes anything raises :class:`RemovalLost` if the removal is not the caller's any more.

    :ivar keep_seconds: for how long after the removal nothing can be added to the project, since tokens for it are
        remembered.
    """

    database: Tables = attrs.field(converter=in_tables("removal"))
    clock: Clock
    keep_seconds: float

    def secrets(self, project_id: str, after: str, limit: int) -> Deferred[list[NewSecret]]:
        """Some of a project's secrets, expired ones too, with no more of them than where their payloads are.

        :param project_id: external id.
        :param after: the id that comes before theirs.
        """

        def work(session: Session) -> list[NewSecret]:
            project = find_project(session, project_id)
            found = payloads_of(session, project, after, limit) if project else []
            return [NewSecret(id, project_id, payload=payload) for id, payload in found]

        return self.database.interact(work, write=False, listing=True)

    def passphrases(self, project_id: str, after: str, limit: int) -> Deferred[list[tuple[str, StoredPayload]]]:
        """Where the passphrases of some of a project's orders are kept, with the orders' ids."""

        def work(session: Session) -> list[tuple[str, StoredPayload]]:
            ids = session.scalars(
                select(models.OrderPassphrase.order_id)
                .join(models.Order, models.Order.id == models.OrderPassphrase.order_id)
                .where(models.Order.project_id == find_project(session, project_id), models.Order.id > after)
                .order_by(models.Order.id)
                .limit(limit)
            ).all()
            return [(order_id, find_passphrase(session, order_id)) for order_id in ids]

        return self.database.interact(work, write=False, listing=True)

    def check(self, claim: RemovalClaim) -> Deferred[None]:
        """Make sure that the removal is still the caller's."""
        return self.database.interact(lambda session: hold(session, claim))

    def remove_secrets(self, claim: RemovalClaim, ids: Sequence[str]) -> Deferred[bool]:
        """Remove secrets of a project with everything below them, or only some of their consumers if they have very many.

        :return: whether the secrets are gone; if not, call again.
        """

        def work(session: Session) -> bool:
            hold(session, claim)
            return delete_secrets(session, ids)

        return self.database.interact(work)

    def remove_rest(self, claim: RemovalClaim, limit: int) -> Deferred[int | None]:
        """Remove some of what else a project has and, once that is all, the project.

        :param limit: objects at most.
        :return: how many objects were removed; None if the project is gone, and its removal is done.
        """

        def work(session: Session) -> int | None:
            hold(session, claim)
            project = find_project(session, claim.project_id)
            if project is None:
                return self._finish(session, claim)
            for model, remove in ((models.Order, delete_orders), (models.Container, delete_containers)):
                ids = session.scalars(select(model.id).where(model.project_id == project).limit(limit)).all()
                if ids:
                    remove(session, ids)
                    return len(ids)
            for model in (models.SecretConsumer, models.ContainerConsumer):
                ids = session.scalars(select(model.id).where(model.project_id == project).limit(limit)).all()
                if ids:
                    session.execute(delete(model).where(model.id.in_(ids)))
                    return len(ids)
            return self._finish(session, claim) if _remove_project(session, project) else 0

        return self.database.interact(work)

    def _finish(self, session: Session, claim: RemovalClaim) -> None:
        finish(session, claim, utcnow(self.clock) + datetime.timedelta(seconds=self.keep_seconds))


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
