"""The configured backends, and which of them a project prefers."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import attrs
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import ConfigurationError, NotFound
from barbtx.model import models
from barbtx.model.database import Tables, in_tables
from barbtx.model.records import ACTIVE, SecretStore
from barbtx.model.repositories.projects import find_or_create, project_key
from barbtx.times import Clock, utcnow

_B = models.SecretStore
_P = models.ProjectSecretStore
_COLUMNS = (_B.id, _B.store_plugin, _B.crypto_plugin, _B.global_default, _B.name, _B.status, _B.created_at,
            _B.updated_at)


@attrs.frozen
class ConfiguredStore:
    """A backend as the configuration has it."""

    store_plugin: str
    crypto_plugin: str | None
    global_default: bool
    name: str


@attrs.frozen
class SecretStoreRepo:
    database: Tables = attrs.field(converter=in_tables("secret_stores"))
    clock: Clock

    def sync(self, configured: Sequence[ConfiguredStore]) -> Deferred[None]:
        """Bring the table in line with the configuration.

        :raises ConfigurationError: a backend that is configured no more is preferred by a project.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            known = {(row.store_plugin, row.crypto_plugin): row.id for row in session.execute(select(*_COLUMNS))}
            for store in configured:
                values = {"global_default": store.global_default, "name": store.name}
                store_id = known.pop((store.store_plugin, store.crypto_plugin), None)
                if store_id is None:
                    session.execute(insert(_B).values(
                        id=str(uuid.uuid4()), store_plugin=store.store_plugin, crypto_plugin=store.crypto_plugin,
                        status=ACTIVE, created_at=now, updated_at=now, **values))
                else:
                    session.execute(update(_B).where(_B.id == store_id).values(updated_at=now, **values))
            for (store_plugin, crypto_plugin), store_id in known.items():
                if session.scalar(select(func.count()).select_from(_P).where(_P.secret_store_id == store_id)):
                    raise ConfigurationError(f"the secret store {store_plugin}/{crypto_plugin} is not configured any "
                                             "more, but projects prefer it")
                session.execute(delete(_B).where(_B.id == store_id))

        return self.database.interact(work)

    def list(self) -> Deferred[list[SecretStore]]:
        """All backends, oldest first."""
        return self.database.interact(
            lambda session: [SecretStore(*row) for row in session.execute(
                select(*_COLUMNS).order_by(_B.created_at, _B.id))],
            write=False)

    def get(self, store_id: str) -> Deferred[SecretStore | None]:
        """A backend by its id."""
        return self.database.interact(lambda session: _find(session, _B.id == store_id), write=False)

    def preferred(self, project_id: str) -> Deferred[SecretStore | None]:
        """The backend that a project (external id) prefers, if it has chosen one."""
        def work(session: Session) -> SecretStore | None:
            chosen = (select(_P.secret_store_id).join(models.Project, models.Project.id == _P.project_id)
                      .where(models.Project.external_id == project_id).scalar_subquery())
            return _find(session, _B.id == chosen)

        return self.database.interact(work, write=False)

    def prefer(self, project_id: str, store_id: str) -> Deferred[None]:
        """Let a project prefer a backend, instead of the one that it preferred before."""
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            project = project_key(session, project_id, now)
            find_or_create(
                session,
                lambda: session.scalar(select(_P.project_id).where(_P.project_id == project)),
                lambda: session.execute(insert(_P).values(project_id=project, secret_store_id=store_id)))
            session.execute(update(_P).where(_P.project_id == project).values(secret_store_id=store_id))

        return self.database.interact(work)

    def forget_preference(self, project_id: str) -> Deferred[None]:
        """Let a project prefer none.

        :raises NotFound: it preferred none.
        """
        def work(session: Session) -> None:
            project = (select(models.Project.id).where(models.Project.external_id == project_id).scalar_subquery())
            if session.execute(delete(_P).where(_P.project_id == project)).rowcount != 1:
                raise NotFound("Not Found. No preferred secret store defined for this project.")

        return self.database.interact(work)


def _find(session: Session, condition) -> SecretStore | None:
    row = session.execute(select(*_COLUMNS).where(condition)).first()
    return SecretStore(*row) if row else None
