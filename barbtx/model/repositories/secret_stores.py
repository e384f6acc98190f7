"""The configured backends for payloads, and which of them each project prefers."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import ConfigurationError, NotFound
from barbtx.model import models
from barbtx.model.records import ACTIVE, SecretStore
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.projects import find_or_create, project_key
from barbtx.model.repositories.rows import affected_rows, fields
from barbtx.times import utcnow

_B = models.SecretStore
_P = models.ProjectSecretStore
_COLUMNS = (
    _B.id,
    _B.store_plugin,
    _B.crypto_plugin,
    _B.global_default,
    _B.name,
    _B.status,
    _B.created_at.label("created"),
    _B.updated_at.label("updated"),
)


@attrs.frozen
class ConfiguredStore:
    """A backend as the configuration describes it.

    :ivar store_plugin: the configured name of the secret store plugin.
    :ivar crypto_plugin: the configured name of the crypto plugin, if it uses one.
    :ivar global_default: whether projects without a preference use it.
    """

    store_plugin: str
    crypto_plugin: str | None
    global_default: bool
    name: str


@attrs.frozen
class SecretStoreRepo(Repository):
    """The configured backends and the projects' preferences."""

    tables = "secret_stores"

    def sync(
        self, configured: Sequence[ConfiguredStore], race_hook: Callable[[], None] = lambda: None
    ) -> Deferred[None]:
        """Synchronize the table with the configuration. Any number of processes may do so at the same time.

        :param race_hook: see :func:`find_or_create`.
        :raises ConfigurationError: a project prefers a backend that is no longer configured.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            _merge_duplicates(session)
            # All processes use the same order, so that those that start together do not deadlock.
            for store in sorted(configured, key=_identity):
                store_id = _find_or_insert(session, store, now, race_hook)
                session.execute(
                    update(_B)
                    .where(_B.id == store_id)
                    .values(updated_at=now, global_default=store.global_default, name=store.name)
                )
            known = {_identity(store) for store in configured}
            for row in session.execute(select(*_COLUMNS)).all():
                if _identity(row) not in known:
                    _remove(session, row)

        return self._interact(work)

    def list_all(self) -> Deferred[list[SecretStore]]:
        """All backends, oldest first."""

        def work(session: Session) -> list[SecretStore]:
            return [_store(row) for row in session.execute(select(*_COLUMNS).order_by(_B.created_at, _B.id))]

        return self._interact(work, write=False)

    def get(self, store_id: str) -> Deferred[SecretStore | None]:
        """A backend by its id, or None."""
        return self._interact(lambda session: _find(session, _B.id == store_id), write=False)

    def preferred(self, project_id: str) -> Deferred[SecretStore | None]:
        """The backend that a project prefers, or None.

        :param project_id: external id.
        """

        def work(session: Session) -> SecretStore | None:
            chosen = (
                select(_P.secret_store_id)
                .join(models.Project, models.Project.id == _P.project_id)
                .where(models.Project.external_id == project_id)
                .scalar_subquery()
            )
            return _find(session, _B.id == chosen)

        return self._interact(work, write=False)

    def prefer(self, project_id: str, store_id: str) -> Deferred[None]:
        """Set the backend that a project prefers.

        :raises NotFound: the backend does not exist.
        :raises ProjectClosed: the project was deleted in Keystone.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            # The shared lock keeps the backend from being removed before the preference is stored.
            if session.scalar(select(_B.id).where(_B.id == store_id).with_for_update(read=True)) is None:
                raise NotFound("Not Found. Secret store not found.")
            project = project_key(session, project_id, now)

            def create() -> str:
                session.execute(insert(_P).values(project_id=project, secret_store_id=store_id))
                return project

            find_or_create(
                session, lambda: session.scalar(select(_P.project_id).where(_P.project_id == project)), create
            )
            session.execute(update(_P).where(_P.project_id == project).values(secret_store_id=store_id))

        return self._interact(work)

    def forget_preference(self, project_id: str) -> Deferred[None]:
        """Delete a project's preference.

        :raises NotFound: it has none.
        """

        def work(session: Session) -> None:
            project = select(models.Project.id).where(models.Project.external_id == project_id).scalar_subquery()
            if affected_rows(session, delete(_P).where(_P.project_id == project)) != 1:
                raise NotFound("Not Found. No preferred secret store defined for this project.")

        return self._interact(work)


def _find(session: Session, condition: ColumnElement[bool]) -> SecretStore | None:
    row = session.execute(select(*_COLUMNS).where(condition)).first()
    return _store(row) if row else None


def _store(row: Row[*tuple[Any, ...]]) -> SecretStore:
    return SecretStore(**fields(row, _COLUMNS) | {"crypto_plugin": row.crypto_plugin or None})


def _identity(store: ConfiguredStore | Row[*tuple[Any, ...]]) -> tuple[str, str]:
    """The plugins of a backend, which distinguish it from the others."""
    return store.store_plugin, store.crypto_plugin or ""


def _find_or_insert(
    session: Session, store: ConfiguredStore, now: datetime.datetime, race_hook: Callable[[], None]
) -> str:
    store_plugin, crypto_plugin = _identity(store)

    def find() -> str | None:
        return session.scalar(select(_B.id).where(_B.store_plugin == store_plugin, _B.crypto_plugin == crypto_plugin))

    def create() -> str:
        store_id = str(uuid.uuid4())
        session.execute(
            insert(_B).values(
                id=store_id,
                store_plugin=store_plugin,
                crypto_plugin=crypto_plugin,
                name=store.name,
                global_default=store.global_default,
                status=ACTIVE,
                created_at=now,
                updated_at=now,
            )
        )
        return store_id

    return find_or_create(session, find, create, race_hook)


def _remove(session: Session, row: Row[*tuple[Any, ...]]) -> None:
    """Delete a backend.

    :raises ConfigurationError: a project prefers it.
    """
    if session.scalar(select(func.count()).select_from(_P).where(_P.secret_store_id == row.id)):
        raise ConfigurationError(
            f"the secret store {row.store_plugin}/{row.crypto_plugin or None} is not configured "
            "any more, but projects prefer it"
        )
    session.execute(delete(_B).where(_B.id == row.id))


def _merge_duplicates(session: Session) -> None:
    """Merge rows of the same backend into the one that most projects prefer, and store its crypto plugin as not null.

    The unique index does not prevent such rows in databases that other programs have filled or edited, because it
    treats null and empty text as different.
    """
    preferred: dict[str, int] = {
        row.secret_store_id: row.projects
        for row in session.execute(
            select(_P.secret_store_id, func.count().label("projects")).group_by(_P.secret_store_id)
        )
    }
    same: dict[tuple[str, str], list[Row[*tuple[Any, ...]]]] = {}
    for row in session.execute(select(*_COLUMNS).order_by(_B.created_at, _B.id)):
        same.setdefault(_identity(row), []).append(row)
    for (_, crypto_plugin), rows in same.items():
        kept, *others = sorted(rows, key=lambda row: -preferred.get(row.id, 0))
        ids = [row.id for row in others]
        if ids:
            session.execute(update(_P).where(_P.secret_store_id.in_(ids)).values(secret_store_id=kept.id))
            session.execute(delete(_B).where(_B.id.in_(ids)))
        if kept.crypto_plugin is None:
            session.execute(update(_B).where(_B.id == kept.id).values(crypto_plugin=crypto_plugin))
