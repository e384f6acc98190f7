"""Containers: named groups of a project's secrets."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable, Sequence

import attrs
from sqlalchemy import delete, func, insert, or_, select
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import Conflict, LimitReached, NotFound
from barbtx.limits import ObjectLimits
from barbtx.model import models
from barbtx.model.database import Tables, in_tables
from barbtx.model.records import ACTIVE, Container, Entry, NewContainer, Page
from barbtx.model.repositories.acls import access, access_columns, delete_acls, touch, touch_to_add
from barbtx.model.repositories.consumers import CONTAINER_CONSUMERS, delete_some_consumers, embedded_consumers
from barbtx.model.repositories.idempotency import IdempotencyRecord, forget_keys, remember
from barbtx.model.repositories.listing import Condition, apply_conditions, count, without_nul
from barbtx.model.repositories.projects import find_project, project_key
from barbtx.model.repositories.quotas import count_of, enforce
from barbtx.times import Clock, utcnow

_C = models.Container
_L = models.ContainerSecret
_S = models.Secret
_COLUMNS = (_C.id, models.Project.external_id, _C.name, _C.type, _C.creator_id, _C.created_at, _C.updated_at, _C.status)


@attrs.frozen
class ContainerRepo:
    database: Tables = attrs.field(converter=in_tables("containers"))
    clock: Clock
    quota: int
    limits: ObjectLimits = ObjectLimits()

    def create(self, new: NewContainer, use: IdempotencyRecord | None = None) -> Deferred[None]:
        """Store a container.

        :param use: as in :func:`remember`.

        :raises QuotaReached: the project may have no more.
        :raises LimitReached: there are more secrets than a container may hold.
        :raises NotFound: a secret is not the project's.
        :raises ProjectClosed: the project was deleted in Keystone.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            project = project_key(session, new.project_id, now)
            remember(session, project, use, now)
            enforce(session, project, "containers", self.quota, count_of(_C))
            self._require_room(len(new.entries))
            _require_secrets(session, project, [entry.secret_id for entry in new.entries], now)
            insert_container(session, new, now)

        return self.database.interact(work)

    def get(
        self, container_id: str, user_id: str | None, *, with_entries: bool = True, with_consumers: bool = True
    ) -> Deferred[Container | None]:
        """A container of any project, and what its ACL means to a user.

        :param with_entries: read also what is in it.
        :param with_consumers: read also who uses it.
        """

        def work(session: Session) -> Container | None:
            row = session.execute(
                select(*_COLUMNS, *access_columns(_C.id, user_id))
                .join(models.Project, models.Project.id == _C.project_id)
                .where(_C.id == container_id)
            ).first()
            if row is None:
                return None
            containers = [Container(*row[: len(_COLUMNS)], access(*row[len(_COLUMNS) :]))]
            if with_entries:
                containers = _with_entries(session, containers)
            if with_consumers:
                containers = self._with_consumers(session, containers)
            return containers[0]

        return self.database.interact(work, write=False)

    def list_page(
        self, project_id: str, conditions: Iterable[Condition], limit: int, offset: int
    ) -> Deferred[Page[Container]]:
        """A page of a project's containers, oldest first.

        :param conditions: on ``name`` and ``type``.
        """

        def work(session: Session) -> Page[Container]:
            project = session.scalar(select(models.Project.id).where(models.Project.external_id == project_id))
            query = apply_conditions(
                select(*_COLUMNS).where(_C.project_id == project), conditions, {"name": _C.name, "type": _C.type}
            )
            total = count(session, query, _C.id)
            if offset >= total:
                return Page((), total)
            rows = session.execute(
                query.join(models.Project, models.Project.id == _C.project_id)
                .order_by(_C.created_at, _C.id)
                .limit(limit)
                .offset(offset)
            )
            containers = _with_entries(session, [Container(*row) for row in rows])
            return Page(tuple(self._with_consumers(session, containers)), total)

        return self.database.interact(work, write=False, listing=True)

    def delete(self, container_id: str) -> Deferred[bool]:
        """Delete a container with its links, ACL and consumers, or only some of the consumers if it has very many.

        The secrets stay.

        :return: whether the container is gone; if not, call again.
        :raises NotFound: it is gone already.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> bool:
            touch(session, _C, container_id, now)
            return delete_containers(session, [container_id])

        return self.database.interact(work)

    def add_secret(self, container: Container, project_id: str, entry: Entry) -> Deferred[None]:
        """Put a secret of a project into a container.

        :param project_id: external id of the project that the secret must be of.
        :raises NotFound: the secret is not the project's, or the container is gone.
        :raises Conflict: it is there under that name.
        :raises LimitReached: the container may hold no more.
        :raises ProjectClosed: the project, or the container's, was deleted in Keystone.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            touch_to_add(session, _C, container.id, now)
            _require_secrets(session, project_key(session, project_id, now), [entry.secret_id], now)
            if _link(session, container.id, entry) is not None:
                raise Conflict(
                    "Conflict. A secret with that name and ID is already stored in this container. The same "
                    "secret can exist in a container as long as the name is unique."
                )
            held = session.scalar(select(func.count()).select_from(_L).where(_L.container_id == container.id))
            self._require_room(held + 1)
            _insert_entries(session, container.id, [entry])

        return self.database.interact(work)

    def remove_secret(self, container: Container, project_id: str, entry: Entry) -> Deferred[None]:
        """Take a secret out of a container.

        :raises NotFound: the secret is not the project's, or not there under that name, or the container is gone.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            touch(session, _C, container.id, now)
            _require_secrets(session, find_project(session, project_id), [entry.secret_id], now)
            link = _link(session, container.id, entry)
            if link is None:
                raise NotFound("Secret provided is not in the container.")
            session.execute(delete(_L).where(_L.id == link))

        return self.database.interact(work)

    def _require_room(self, entries: int) -> None:
        """:raises LimitReached: a container may not hold so many secrets."""
        if entries > self.limits.max_secrets_per_container:
            raise LimitReached("secrets of one container", self.limits.max_secrets_per_container)

    def _with_consumers(self, session: Session, containers: Sequence[Container]) -> list[Container]:
        found = embedded_consumers(
            session, CONTAINER_CONSUMERS, [container.id for container in containers], self.limits.max_embedded_consumers
        )
        return [attrs.evolve(container, consumers=found.get(container.id, ())) for container in containers]


def delete_containers(session: Session, ids: Sequence[str]) -> bool:
    """Delete containers with everything below them, or only some of their consumers if they have very many.

    The secrets in them stay.

    :return: whether the containers are gone; if not, call again in another transaction.
    """
    if delete_some_consumers(session, models.ContainerConsumer, ids):
        return False
    delete_acls(session, ids)
    forget_keys(session, ids)
    session.execute(delete(models.ContainerConsumer).where(models.ContainerConsumer.object_id.in_(ids)))
    session.execute(delete(_L).where(_L.container_id.in_(ids)))
    session.execute(delete(_C).where(_C.id.in_(ids)))
    return True


def insert_container(session: Session, new: NewContainer, now: datetime.datetime) -> None:
    """Insert a container and its links."""
    session.execute(
        insert(_C).values(
            id=new.id,
            project_id=project_key(session, new.project_id, now),
            name=new.name,
            type=new.type,
            creator_id=new.creator_id,
            status=ACTIVE,
            created_at=now,
            updated_at=now,
        )
    )
    _insert_entries(session, new.id, new.entries)


def _insert_entries(session: Session, container_id: str, entries: Iterable[Entry]) -> None:
    rows = [
        {"id": str(uuid.uuid4()), "container_id": container_id, "secret_id": entry.secret_id, "name": entry.name}
        for entry in entries
    ]
    if rows:
        session.execute(insert(_L), rows)


def _link(session: Session, container_id: str, entry: Entry) -> str | None:
    same_name = _L.name.is_(None) if entry.name is None else _L.name == entry.name
    return session.scalar(
        select(_L.id).where(_L.container_id == container_id, _L.secret_id == entry.secret_id, same_name).limit(1)
    )


def _require_secrets(session: Session, project: str | None, secret_ids: list[str], now: datetime.datetime) -> None:
    """:raises NotFound: not all of them are live secrets of the project."""
    wanted = {without_nul(secret_id) for secret_id in secret_ids}
    if not wanted:
        return
    # Shared locks, so that none of them is deleted before the links to it are there.
    found = session.scalars(
        select(_S.id)
        .where(
            _S.id.in_(wanted),
            _S.project_id == project,
            or_(_S.expiration.is_(None), _S.expiration > now),
        )
        .with_for_update(read=True)
    ).all()
    # Not only as many: a database may take an id with trailing spaces for the one without.
    if set(found) != wanted:
        raise NotFound("Secret not found.")


def _with_entries(session: Session, containers: Sequence[Container]) -> list[Container]:
    """The same containers with what is in them."""
    entries: dict[str, list[Entry]] = {}
    for container_id, name, secret_id in session.execute(
        select(_L.container_id, _L.name, _L.secret_id)
        .where(_L.container_id.in_([container.id for container in containers]))
        .order_by(_L.id)
    ):
        entries.setdefault(container_id, []).append(Entry(name, secret_id))
    return [attrs.evolve(container, entries=tuple(entries.get(container.id, ()))) for container in containers]
