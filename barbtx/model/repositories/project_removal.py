"""Removal of all objects of a project, in batches."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import attrs
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.model import models
from barbtx.model.records import NewSecret, RemovalClaim, StoredPayload
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.containers import delete_containers
from barbtx.model.repositories.order_passphrases import find_passphrase
from barbtx.model.repositories.order_queries import delete_orders
from barbtx.model.repositories.pending_removals import finish, hold
from barbtx.model.repositories.projects import find_project
from barbtx.model.repositories.secrets import delete_secrets, list_payloads
from barbtx.times import utcnow

# Tables that refer to the project's row; they have few rows per project.
_OF_THE_PROJECT = (models.ProjectQuota, models.ProjectSecretStore, models.KEK, models.IdempotencyKey)


@attrs.frozen
class ProjectRemovalRepo(Repository):
    """The steps of a removal. Each step is idempotent.

    The methods that change the database raise :class:`RemovalLost` if the removal was cancelled or another worker has
    claimed it.

    :ivar keep_seconds: time for which a removed project stays closed, because its tokens may still be cached.
    """

    tables = "removal"

    keep_seconds: float

    def secrets(self, project_id: str, after: str, limit: int) -> Deferred[list[NewSecret]]:
        """A batch of a project's secrets, expired ones included, in the order of their ids.

        Of each secret only the id and the payload are read.

        :param project_id: external id.
        :param after: the last id of the batch before; empty for the first batch.
        """

        def work(session: Session) -> list[NewSecret]:
            project = find_project(session, project_id)
            found = list_payloads(session, project, after, limit) if project else []
            return [NewSecret(id=secret_id, project_id=project_id, payload=payload) for secret_id, payload in found]

        return self._interact(work, write=False, listing=True)

    def passphrases(self, project_id: str, after: str, limit: int) -> Deferred[list[tuple[str, StoredPayload]]]:
        """A batch of the passphrases of a project's orders, as pairs of the order's id and the passphrase.

        :param project_id: external id.
        :param after: the last order id of the batch before; empty for the first batch.
        """

        def work(session: Session) -> list[tuple[str, StoredPayload]]:
            ids = session.scalars(
                select(models.OrderPassphrase.order_id)
                .join(models.Order, models.Order.id == models.OrderPassphrase.order_id)
                .where(models.Order.project_id == find_project(session, project_id), models.Order.id > after)
                .order_by(models.Order.id)
                .limit(limit)
            ).all()
            found = [(order_id, find_passphrase(session, order_id)) for order_id in ids]
            return [(order_id, passphrase) for order_id, passphrase in found if passphrase is not None]

        return self._interact(work, write=False, listing=True)

    def check(self, claim: RemovalClaim) -> Deferred[None]:
        """Check that the caller still holds the lease of the removal."""
        return self._interact(lambda session: hold(session, claim))

    def remove_secrets(self, claim: RemovalClaim, ids: Sequence[str]) -> Deferred[bool]:
        """Remove secrets of a project; see :func:`delete_secrets`.

        :return: whether the secrets are gone; if not, call the method again.
        """

        def work(session: Session) -> bool:
            hold(session, claim)
            return delete_secrets(session, ids)

        return self._interact(work)

    def remove_rest(self, claim: RemovalClaim, limit: int) -> Deferred[int | None]:
        """Remove a batch of a project's other objects and, when none is left, the project.

        :param limit: maximum number of objects.
        :return: how many objects were removed; None if the project is gone and its removal is finished.
        """

        def work(session: Session) -> int | None:
            hold(session, claim)
            project = find_project(session, claim.project_id)
            if project is None:
                self._finish(session, claim)
                return None
            removed = _remove_batch(session, project, limit)
            if removed or not _remove_project(session, project):
                return removed
            self._finish(session, claim)
            return None

        return self._interact(work)

    def _finish(self, session: Session, claim: RemovalClaim) -> None:
        finish(session, claim, utcnow(self.clock) + datetime.timedelta(seconds=self.keep_seconds))


def _remove_batch(session: Session, project: str, limit: int) -> int:
    """Remove objects of one kind that a project still has, and return how many."""

    def ids_of(
        model: type[models.Order]
        | type[models.Container]
        | type[models.SecretConsumer]
        | type[models.ContainerConsumer],
    ) -> Sequence[str]:
        return session.scalars(select(model.id).where(model.project_id == project).limit(limit)).all()

    if ids := ids_of(models.Order):
        delete_orders(session, ids)
    elif ids := ids_of(models.Container):
        delete_containers(session, ids)
    elif ids := ids_of(models.SecretConsumer):
        session.execute(delete(models.SecretConsumer).where(models.SecretConsumer.id.in_(ids)))
    elif ids := ids_of(models.ContainerConsumer):
        session.execute(delete(models.ContainerConsumer).where(models.ContainerConsumer.id.in_(ids)))
    return len(ids)


def _remove_project(session: Session, project: str) -> bool:
    """Remove a project's row, unless an object was added to the project meanwhile."""
    try:
        with session.begin_nested():
            for model in _OF_THE_PROJECT:
                session.execute(delete(model).where(model.project_id == project))
            session.execute(delete(models.Project).where(models.Project.id == project))
    except IntegrityError:
        return False
    return True
