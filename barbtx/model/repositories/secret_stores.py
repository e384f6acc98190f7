"""The configured backends, and which of them a project prefers."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Sequence
from typing import Any

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
_COLUMNS = (
    _B.id,
    _B.store_plugin,
    _B.crypto_plugin,
    _B.global_default,
    _B.name,
    _B.status,
    _B.created_at,
    _B.updated_at,
)


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

    def sync(
        self, configured: Sequence[ConfiguredStore], race_hook: Callable[[], None] = lambda: None
    ) -> Deferred[None]:
        """Bring the table in line with the configuration; any number of processes may do so at the same time.

        :param race_hook: as in :func:`find_or_create`.
        :raises ConfigurationError: a backend that is configured no more is preferred by a project.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            _merge_duplicates(session)
            # In one order, so that processes that start together do not wait for each other in a circle.
            for store in sorted(configured, key=_plugins):
                store_id = _find_or_insert(session, store, now, race_hook)
                session.execute(
                    update(_B)
                    .where(_B.id == store_id)
                    .values(updated_at=now, global_default=store.global_default, name=store.name)
                )
            known = {_plugins(store) for store in configured}
            for row in session.execute(select(*_COLUMNS)).all():
                if _plugins(row) not in known:
                    _remove(session, row)

        return self.database.interact(work)

    def list_all(self) -> Deferred[list[SecretStore]]:
        """All backends, oldest first."""
        return self.database.interact(
            lambda session: [_store(row) for row in session.execute(select(*_COLUMNS).order_by(_B.created_at, _B.id))],
            write=False,
        )

    def get(self, store_id: str) -> Deferred[SecretStore | None]:
        """A backend by its id."""
        return self.database.interact(lambda session: _find(session, _B.id == store_id), write=False)

    def preferred(self, project_id: str) -> Deferred[SecretStore | None]:
        """The backend that a project (external id) prefers, if it has chosen one."""

        def work(session: Session) -> SecretStore | None:
            chosen = (
                select(_P.secret_store_id)
                .join(models.Project, models.Project.id == _P.project_id)
                .where(models.Project.external_id == project_id)
                .scalar_subquery()
            )
            return _find(session, _B.id == chosen)

        return self.database.interact(work, write=False)

    def prefer(self, project_id: str, store_id: str) -> Deferred[None]:
        """Let a project prefer a backend, instead of the one that it preferred before.

        :raises NotFound: the backend is gone.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            # A shared lock, so that it stays until the preference is there.
            if session.scalar(select(_B.id).where(_B.id == store_id).with_for_update(read=True)) is None:
                raise NotFound("Not Found. Secret store not found.")
            project = project_key(session, project_id, now)
            find_or_create(
                session,
                lambda: session.scalar(select(_P.project_id).where(_P.project_id == project)),
                lambda: session.execute(insert(_P).values(project_id=project, secret_store_id=store_id)),
            )
            session.execute(update(_P).where(_P.project_id == project).values(secret_store_id=store_id))

        return self.database.interact(work)

    def forget_preference(self, project_id: str) -> Deferred[None]:
        """Let a project prefer none.

        :raises NotFound: it preferred none.
        """

        def work(session: Session) -> None:
            project = select(models.Project.id).where(models.Project.external_id == project_id).scalar_subquery()
            if session.execute(delete(_P).where(_P.project_id == project)).rowcount != 1:
                raise NotFound("Not Found. No preferred secret store defined for this project.")

        return self.database.interact(work)


def _find(session: Session, condition) -> SecretStore | None:
    row = session.execute(select(*_COLUMNS).where(condition)).first()
    return _store(row) if row else None


def _store(row: Any) -> SecretStore:
    return SecretStore(row.id, row.store_plugin, row.crypto_plugin or None, *row[3:])


def _plugins(store: Any) -> tuple[str, str]:
    """What tells backends apart."""
    return store.store_plugin, store.crypto_plugin or ""


def _find_or_insert(
    session: Session, store: ConfiguredStore, now: datetime.datetime, race_hook: Callable[[], None]
) -> str:
    store_plugin, crypto_plugin = _plugins(store)
    return find_or_create(
        session,
        lambda: session.scalar(select(_B.id).where(_B.store_plugin == store_plugin, _B.crypto_plugin == crypto_plugin)),
        lambda: session.execute(
            insert(_B).values(
                id=str(uuid.uuid4()),
                store_plugin=store_plugin,
                crypto_plugin=crypto_plugin,
                name=store.name,
                global_default=store.global_default,
                status=ACTIVE,
                created_at=now,
                updated_at=now,
            )
        ),
        race_hook,
    )


def _remove(session: Session, row: Any) -> None:
    """:raises ConfigurationError: a project prefers it."""
    if session.scalar(select(func.count()).select_from(_P).where(_P.secret_store_id == row.id)):
        raise ConfigurationError(
            f"the secret store {row.store_plugin}/{row.crypto_plugin or None} is not configured "
            "any more, but projects prefer it"
        )
    session.execute(delete(_B).where(_B.id == row.id))


def _merge_duplicates(session: Session) -> None:
    """Make one of rows for the same backend, the one that most projects prefer, and have it written as the index wants.

    Such rows come from databases that were filled or edited by other means: null and empty differ to the index.
    """
    preferred = dict(session.execute(select(_P.secret_store_id, func.count()).group_by(_P.secret_store_id)).all())
    same: dict[tuple[str, str], list[Any]] = {}
    for row in session.execute(select(*_COLUMNS).order_by(_B.created_at, _B.id)):
        same.setdefault(_plugins(row), []).append(row)
    for (_, crypto_plugin), rows in same.items():
        kept, *others = sorted(rows, key=lambda row: -preferred.get(row.id, 0))
        ids = [row.id for row in others]
        if ids:
            session.execute(update(_P).where(_P.secret_store_id.in_(ids)).values(secret_store_id=kept.id))
            session.execute(delete(_B).where(_B.id.in_(ids)))
        if kept.crypto_plugin is None:
            session.execute(update(_B).where(_B.id == kept.id).values(crypto_plugin=crypto_plugin))
