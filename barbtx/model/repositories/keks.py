"""Project key encryption keys, wrapped, and the canaries that tell whose master keys a database needs."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import ServiceUnavailable
from barbtx.model.database import Tables, in_tables
from barbtx.model.models import KEK, CryptoCanary, Project
from barbtx.model.records import KEKMeta
from barbtx.model.repositories.projects import find_or_create, project_key
from barbtx.times import Clock, utcnow

KEK_COLUMNS = (
    KEK.id,
    KEK.plugin_name,
    KEK.kek_label,
    KEK.algorithm,
    KEK.bit_length,
    KEK.mode,
    KEK.plugin_meta,
    KEK.master_key_id,
)
_C = CryptoCanary
_CANARY_COLUMNS = (
    _C.id,
    _C.plugin_name,
    _C.kek_label,
    _C.algorithm,
    _C.bit_length,
    _C.mode,
    _C.plugin_meta,
    _C.master_key_id,
)


class KEKGone(ServiceUnavailable):
    """A payload was encrypted under a project key that the database does not have any more; nothing was stored."""

    def __init__(self) -> None:
        super().__init__("The project's key was replaced meanwhile; please try again.", retry_after=1)


@attrs.frozen
class KEKRepo:
    database: Tables = attrs.field(converter=in_tables("keks"))
    clock: Clock

    def get_active(self, project_id: str, plugin_name: str) -> Deferred[KEKMeta | None]:
        """A project's active key for a crypto plugin, if it has one.

        :param project_id: external id.
        """
        return self.database.interact(lambda s: _active(s, project_id, plugin_name), write=False)

    def add_active(
        self, project_id: str, kek: KEKMeta, race_hook: Callable[[], None] = lambda: None
    ) -> Deferred[KEKMeta]:
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
                lambda: session.execute(
                    insert(KEK).values(project_id=project, active=True, created_at=now, **attrs.asdict(kek))
                ),
                race_hook,
            )

        return self.database.interact(work)

    def samples(self, plugin_name: str) -> Deferred[list[tuple[str, KEKMeta]]]:
        """A key of a plugin under each master key in use, by which to check that the plugin has them all.

        Of the keys whose master key is not named, the oldest and the newest are taken. Each key comes with the
        external id of its project. The work grows with the number of master keys, not with that of project keys.
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
            return [(row[0], KEKMeta(*row[1:])) for row in rows if row is not None]

        return self.database.interact(work, write=False)

    def canary(self, plugin_name: str) -> Deferred[KEKMeta | None]:
        """The canary of a crypto plugin, if it has been written."""
        return self.database.interact(lambda session: _canary(session, plugin_name), write=False)

    def add_canary(self, canary: KEKMeta, race_hook: Callable[[], None] = lambda: None) -> Deferred[KEKMeta]:
        """Write the canary of a crypto plugin; if another process was first, the answer is that one's canary.

        :param race_hook: as in :func:`find_or_create`.
        """

        def work(session: Session) -> KEKMeta:
            return find_or_create(
                session,
                lambda: _canary(session, canary.plugin_name),
                lambda: session.execute(insert(_C).values(created_at=utcnow(self.clock), **attrs.asdict(canary))),
                race_hook,
            )

        return self.database.interact(work)

    def replace_canary(self, old: KEKMeta, new: KEKMeta) -> Deferred[None]:
        """Write another canary in the place of one, unless somebody else has done so."""
        return self.database.interact(
            lambda session: (
                session.execute(
                    update(_C)
                    .where(_C.plugin_name == old.plugin_name, _C.id == old.id)
                    .values(created_at=utcnow(self.clock), **attrs.asdict(new))
                )
                and None
            )
        )


def _canary(session: Session, plugin_name: str) -> KEKMeta | None:
    row = session.execute(select(*_CANARY_COLUMNS).where(_C.plugin_name == plugin_name)).first()
    return KEKMeta(*row) if row else None


def _active(session: Session, project_id: str, plugin_name: str) -> KEKMeta | None:
    row = session.execute(
        select(*KEK_COLUMNS)
        .join(Project, Project.id == KEK.project_id)
        .where(Project.external_id == project_id, KEK.plugin_name == plugin_name, KEK.active.is_(True))
    ).first()
    return KEKMeta(*row) if row else None
