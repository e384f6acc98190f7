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
from barbtx.model.records import ACTIVE, Container, Entry, NewContainer, Page
from barbtx.model.repositories.acls import access, access_columns, delete_acls, touch, touch_to_add
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.consumers import CONTAINER_CONSUMERS, delete_some_consumers, embedded_consumers
from barbtx.model.repositories.idempotency import IdempotencyRecord, forget_keys, remember_key
from barbtx.model.repositories.listing import Condition, apply_conditions, count, without_nul
from barbtx.model.repositories.projects import find_project, project_key
from barbtx.model.repositories.quotas import count_of, enforce_quota
from barbtx.model.repositories.rows import fields
from barbtx.times import utcnow

_C = models.Container
_L = models.ContainerSecret
_S = models.Secret
_COLUMNS = (
    _C.id,
    models.Project.external_id.label("project_id"),
    _C.name,
    _C.type,
    _C.creator_id,
    _C.created_at.label("created"),
    _C.updated_at.label("updated"),
    _C.status,
)


@attrs.frozen
class ContainerRepo(Repository):
    """The containers of all projects.

    :ivar quota: containers that a project without its own quota may have; negative is unlimited.
    """

    tables = "containers"

    quota: int
    limits: ObjectLimits = attrs.field(factory=ObjectLimits)

    def create(self, new: NewContainer, idempotency: IdempotencyRecord | None = None) -> Deferred[None]:
        """Store a container.

        :param idempotency: see :func:`remember_key`.
        :raises QuotaReached: the project may have no more containers.
        :raises LimitReached: a container may not hold so many secrets.
        :raises NotFound: a secret does not belong to the project.
        :raises ProjectClosed: the project was deleted in Keystone.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            project = project_key(session, new.project_id, now)
            remember_key(session, project, idempotency, now)
            enforce_quota(session, project, "containers", self.quota, count_of(_C))
            self._enforce_limit(len(new.entries))
            _require_secrets(session, project, [entry.secret_id for entry in new.entries], now)
            insert_container(session, project, new, now)

        return self._interact(work)

    def get(
        self, container_id: str, user_id: str | None, *, with_entries: bool = True, with_consumers: bool = True
    ) -> Deferred[Container | None]:
        """A container of any project, with a user's access to it.

        :param with_entries: whether to read its secrets.
        :param with_consumers: whether to read its consumers.
        """

        def work(session: Session) -> Container | None:
            row = session.execute(
                select(*_COLUMNS, *access_columns(_C.id, user_id))
                .join(models.Project, models.Project.id == _C.project_id)
                .where(_C.id == container_id)
            ).first()
            if row is None:
                return None
            containers = [Container(**fields(row, _COLUMNS), access=access(row))]
            if with_entries:
                containers = _with_entries(session, containers)
            if with_consumers:
                containers = self._with_consumers(session, containers)
            return containers[0]

        return self._interact(work, write=False)

    def list_page(
        self, project_id: str, conditions: Iterable[Condition], limit: int, offset: int
    ) -> Deferred[Page[Container]]:
        """A page of a project's containers, oldest first.

        :param project_id: external id.
        :param conditions: conditions on ``name`` and ``type``.
        """

        def work(session: Session) -> Page[Container]:
            query = apply_conditions(
                select(*_COLUMNS).where(_C.project_id == find_project(session, project_id)),
                conditions,
                {"name": _C.name, "type": _C.type},
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
            containers = _with_entries(session, [Container(**fields(row, _COLUMNS)) for row in rows])
            return Page(tuple(self._with_consumers(session, containers)), total)

        return self._interact(work, write=False, listing=True)

    def delete(self, container_id: str) -> Deferred[bool]:
        """Delete a container with its entries, ACL and consumers. The secrets remain.

        :return: whether the container is gone. If it has too many consumers for one transaction, only some of them were
            deleted; call the method again.
        :raises NotFound: the container does not exist.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> bool:
            touch(session, _C, container_id, now)
            return delete_containers(session, [container_id])

        return self._interact(work)

    def add_secret(self, container: Container, project_id: str, entry: Entry) -> Deferred[None]:
        """Add a secret to a container.

        :param project_id: external id of the project that the secret must belong to.
        :raises NotFound: the secret does not belong to the project, or the container does not exist.
        :raises Conflict: the container has that secret under that name.
        :raises LimitReached: the container may hold no more secrets.
        :raises ProjectClosed: the project, or the container's project, was deleted in Keystone.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            touch_to_add(session, _C, container.id, now)
            _require_secrets(session, project_key(session, project_id, now), [entry.secret_id], now)
            if _find_entry(session, container.id, entry) is not None:
                raise Conflict(
                    "Conflict. A secret with that name and ID is already stored in this container. The same "
                    "secret can exist in a container as long as the name is unique."
                )
            held = session.execute(
                select(func.count()).select_from(_L).where(_L.container_id == container.id)
            ).scalar_one()
            self._enforce_limit(held + 1)
            _insert_entries(session, container.id, [entry])

        return self._interact(work)

    def remove_secret(self, container: Container, project_id: str, entry: Entry) -> Deferred[None]:
        """Remove a secret from a container.

        :param project_id: external id of the project that the secret must belong to.
        :raises NotFound: the secret does not belong to the project, or the container does not have it under that name
            or does not exist.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            touch(session, _C, container.id, now)
            _require_secrets(session, find_project(session, project_id), [entry.secret_id], now)
            entry_id = _find_entry(session, container.id, entry)
            if entry_id is None:
                raise NotFound("Secret provided is not in the container.")
            session.execute(delete(_L).where(_L.id == entry_id))

        return self._interact(work)

    def _enforce_limit(self, entries: int) -> None:
        """Check the number of secrets that a container is going to hold.

        :raises LimitReached: it is more than a container may hold.
        """
        if entries > self.limits.max_secrets_per_container:
            raise LimitReached("secrets of one container", self.limits.max_secrets_per_container)

    def _with_consumers(self, session: Session, containers: Sequence[Container]) -> list[Container]:
        found = embedded_consumers(
            session, CONTAINER_CONSUMERS, [container.id for container in containers], self.limits.max_embedded_consumers
        )
        return [attrs.evolve(container, consumers=found.get(container.id, ())) for container in containers]


def delete_containers(session: Session, ids: Sequence[str]) -> bool:
    """Delete containers with their entries, ACLs and consumers. The secrets remain.

    :return: whether the containers are gone. If they have too many consumers for one transaction, only some of these
        were deleted; call the function again in another transaction.
    """
    if delete_some_consumers(session, models.ContainerConsumer, ids):
        return False
    delete_acls(session, ids)
    forget_keys(session, ids)
    session.execute(delete(models.ContainerConsumer).where(models.ContainerConsumer.object_id.in_(ids)))
    session.execute(delete(_L).where(_L.container_id.in_(ids)))
    session.execute(delete(_C).where(_C.id.in_(ids)))
    return True


def insert_container(session: Session, project: str, new: NewContainer, now: datetime.datetime) -> None:
    """Insert a container and its entries.

    :param project: primary key of its project.
    """
    session.execute(
        insert(_C).values(
            id=new.id,
            project_id=project,
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


def _find_entry(session: Session, container_id: str, entry: Entry) -> str | None:
    """The primary key of an entry's row."""
    same_name = _L.name.is_(None) if entry.name is None else _L.name == entry.name
    return session.scalar(
        select(_L.id).where(_L.container_id == container_id, _L.secret_id == entry.secret_id, same_name).limit(1)
    )


def _require_secrets(session: Session, project: str | None, secret_ids: list[str], now: datetime.datetime) -> None:
    """Check that all of some secrets belong to a project and have not expired.

    :raises NotFound: one of them does not.
    """
    wanted = {without_nul(secret_id) for secret_id in secret_ids}
    if not wanted:
        return
    # Shared locks keep the secrets from being deleted before the entries are inserted.
    found = session.scalars(
        select(_S.id)
        .where(
            _S.id.in_(wanted),
            _S.project_id == project,
            or_(_S.expiration.is_(None), _S.expiration > now),
        )
        .with_for_update(read=True)
    ).all()
    # The ids are compared, not counted: a database may match an id that has trailing spaces.
    if set(found) != wanted:
        raise NotFound("Secret not found.")


def _with_entries(session: Session, containers: Sequence[Container]) -> list[Container]:
    """The containers with their secrets."""
    entries: dict[str, list[Entry]] = {}
    for row in session.execute(
        select(_L.container_id, _L.name, _L.secret_id)
        .where(_L.container_id.in_([container.id for container in containers]))
        .order_by(_L.id)
    ):
        entries.setdefault(row.container_id, []).append(Entry(name=row.name, secret_id=row.secret_id))
    return [attrs.evolve(container, entries=tuple(entries.get(container.id, ()))) for container in containers]
