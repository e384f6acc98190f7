"""Project key encryption keys, wrapped."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from sqlalchemy import insert, select
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import ServiceUnavailable
from barbtx.model.database import Database
from barbtx.model.models import KEK, Project
from barbtx.model.records import KEKMeta
from barbtx.model.repositories.projects import find_or_create, project_key
from barbtx.times import Clock, utcnow

KEK_COLUMNS = (KEK.id, KEK.plugin_name, KEK.kek_label, KEK.algorithm, KEK.bit_length, KEK.mode, KEK.plugin_meta)


class KEKGone(ServiceUnavailable):
    """A payload was encrypted under a project key that the database does not have any more; nothing was stored."""

    def __init__(self) -> None:
        super().__init__("The project's key was replaced meanwhile; please try again.", retry_after=1)


@attrs.frozen
class KEKRepo:
    database: Database
    clock: Clock

    def get_active(self, project_id: str, plugin_name: str) -> Deferred[KEKMeta | None]:
        """A project's active key for a crypto plugin, if it has one.

        :param project_id: external id.
        """
        return self.database.interact(lambda s: _active(s, project_id, plugin_name), write=False)

    def add_active(self, project_id: str, kek: KEKMeta,
                   race_hook: Callable[[], None] = lambda: None) -> Deferred[KEKMeta]:
        """Make a key the project's active one; if there is one already, by now, that one is the answer.

        :param race_hook: as in :func:`find_or_create`.
        :raises ProjectClosed: the project was deleted in Keystone.
        """
        def work(session: Session) -> KEKMeta:
            now = utcnow(self.clock)
            project = project_key(session, project_id, now)
            return find_or_create(
                session,
                lambda: _active(session, project_id, kek.plugin_name),
                lambda: session.execute(insert(KEK).values(
                    project_id=project, active=True, created_at=now, **attrs.asdict(kek))),
                race_hook,
            )

        return self.database.interact(work)

    def oldest_and_newest(self, plugin_name: str) -> Deferred[list[tuple[str, KEKMeta]]]:
        """Two keys of a plugin (fewer if there are fewer), by which to check that its master key is the right one.

        Each comes with the external id of its project.
        """
        def work(session: Session) -> list[tuple[str, KEKMeta]]:
            query = (select(Project.external_id, *KEK_COLUMNS).join(Project, Project.id == KEK.project_id)
                     .where(KEK.plugin_name == plugin_name).limit(1))
            orders = (KEK.created_at.asc(), KEK.created_at.desc())
            rows = [session.execute(query.order_by(order)).first() for order in orders]
            return [(row[0], KEKMeta(*row[1:])) for row in rows if row is not None]

        return self.database.interact(work, write=False)


def _active(session: Session, project_id: str, plugin_name: str) -> KEKMeta | None:
    row = session.execute(
        select(*KEK_COLUMNS).join(Project, Project.id == KEK.project_id)
        .where(Project.external_id == project_id, KEK.plugin_name == plugin_name, KEK.active.is_(True))
    ).first()
    return KEKMeta(*row) if row else None
