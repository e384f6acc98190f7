"""Wrapped project keys (KEKs), and the canaries that reveal which master keys a database needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from sqlalchemy import Label, func, insert, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import ServiceUnavailable
from barbtx.model.lookups import NamedRow
from barbtx.model.models import KEK, CryptoCanary, Project
from barbtx.model.records import KEKMeta
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.projects import find_or_create, project_key
from barbtx.model.repositories.rows import fields
from barbtx.times import utcnow

_C = CryptoCanary
_PREFIX = "kek_of_"


def _columns_of(model: type[KEK] | type[CryptoCanary]) -> tuple[Label[Any], ...]:
    """Columns with the fields of a :class:`KEKMeta`, labelled so that they fit beside any others."""
    return tuple(getattr(model, field.name).label(_PREFIX + field.name) for field in attrs.fields(KEKMeta))


#: The columns of a project key; :func:`kek_meta` reads them.
KEK_COLUMNS = _columns_of(KEK)
_CANARY_COLUMNS = _columns_of(CryptoCanary)


class KEKGone(ServiceUnavailable):
    """The project key that encrypted a payload is no longer in the database; nothing was stored."""

    def __init__(self) -> None:
        super().__init__("The project's key was replaced meanwhile; please try again.", retry_after=1)


@attrs.frozen
class KEKRepo(Repository):
    """The project keys of all projects, and the canary of each crypto plugin."""

    tables = "keks"

    def get_active(self, project_id: str, plugin_name: str) -> Deferred[KEKMeta | None]:
        """A project's active key for a crypto plugin, or None if it has none.

        :param project_id: external id.
        """

        def work(session: Session) -> KEKMeta | None:
            row = session.execute(
                select(*KEK_COLUMNS)
                .join(Project, Project.id == KEK.project_id)
                .where(Project.external_id == project_id, KEK.plugin_name == plugin_name, KEK.active.is_(True))
            ).first()
            return kek_meta(row) if row else None

        return self._interact(work, write=False)

    def add_active(
        self, project_id: str, kek: KEKMeta, race_hook: Callable[[], None] = lambda: None
    ) -> Deferred[KEKMeta]:
        """Make a key the project's active one, unless it has one already.

        :param project_id: external id.
        :param race_hook: see :func:`find_or_create`.
        :return: the project's active key.
        :raises ProjectClosed: the project was deleted in Keystone.
        """

        def work(session: Session) -> KEKMeta:
            now = utcnow(self.clock)
            project = project_key(session, project_id, now)

            def find() -> KEKMeta | None:
                row = session.execute(
                    select(*KEK_COLUMNS).where(
                        KEK.project_id == project, KEK.plugin_name == kek.plugin_name, KEK.active.is_(True)
                    )
                ).first()
                return kek_meta(row) if row else None

            def create() -> KEKMeta:
                session.execute(
                    insert(KEK).values(project_id=project, active=True, created_at=now, **attrs.asdict(kek))
                )
                return kek

            return find_or_create(session, find, create, race_hook)

        return self._interact(work)

    def samples(self, plugin_name: str) -> Deferred[list[tuple[str, KEKMeta]]]:
        """One of a plugin's keys for each master key in use, to check that the plugin has all master keys.

        Of the keys that do not name their master key, the oldest and the newest are returned. The cost grows with the
        number of master keys, not with the number of project keys.

        :return: pairs of the external id of a project and its key.
        """

        def work(session: Session) -> list[tuple[str, KEKMeta]]:
            query = (
                select(Project.external_id, *KEK_COLUMNS)
                .join(Project, Project.id == KEK.project_id)
                .where(KEK.plugin_name == plugin_name)
                .limit(1)
            )
            unnamed = query.where(KEK.master_key_id.is_(None))
            queries = [unnamed.order_by(KEK.created_at.asc()), unnamed.order_by(KEK.created_at.desc())]
            # SELECT DISTINCT would read the whole index.
            following = select(func.min(KEK.master_key_id)).where(KEK.plugin_name == plugin_name)
            key_id = ""
            while (key_id := session.scalar(following.where(KEK.master_key_id > key_id))) is not None:
                queries.append(query.where(KEK.master_key_id == key_id))
            rows = [session.execute(query).first() for query in queries]
            return [(row.external_id, kek_meta(row)) for row in rows if row is not None]

        return self._interact(work, write=False)

    def canary(self, plugin_name: str) -> Deferred[KEKMeta | None]:
        """The canary of a crypto plugin, or None if it has none yet."""
        return self._interact(lambda session: _find_canary(session, plugin_name), write=False)

    def add_canary(self, canary: KEKMeta, race_hook: Callable[[], None] = lambda: None) -> Deferred[KEKMeta]:
        """Store the canary of a crypto plugin, unless it has one already.

        :param race_hook: see :func:`find_or_create`.
        :return: the plugin's canary.
        """

        def work(session: Session) -> KEKMeta:
            def create() -> KEKMeta:
                session.execute(insert(_C).values(created_at=utcnow(self.clock), **attrs.asdict(canary)))
                return canary

            return find_or_create(session, lambda: _find_canary(session, canary.plugin_name), create, race_hook)

        return self._interact(work)

    def replace_canary(self, old: KEKMeta, new: KEKMeta) -> Deferred[None]:
        """Replace a canary, unless another process has replaced it."""

        def work(session: Session) -> None:
            session.execute(
                update(_C)
                .where(_C.plugin_name == old.plugin_name, _C.id == old.id)
                .values(created_at=utcnow(self.clock), **attrs.asdict(new))
            )

        return self._interact(work)


def kek_meta(row: NamedRow) -> KEKMeta:
    """The project key in a row with :data:`KEK_COLUMNS`."""
    return KEKMeta(**fields(row, KEK_COLUMNS, _PREFIX))


def _find_canary(session: Session, plugin_name: str) -> KEKMeta | None:
    row = session.execute(select(*_CANARY_COLUMNS).where(_C.plugin_name == plugin_name)).first()
    return kek_meta(row) if row else None
