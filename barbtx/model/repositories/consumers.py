"""Consumers: who has said that they use a secret or a container."""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache

import attrs
from sqlalchemy import ColumnElement, Select, bindparam, delete, exists, func, insert, select, union_all
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import Forbidden, LimitReached, NotFound
from barbtx.limits import ObjectLimits
from barbtx.model import models
from barbtx.model.database import Tables, in_tables
from barbtx.model.models import Project
from barbtx.model.records import ACTIVE, Consumer, Page
from barbtx.model.repositories.acls import touch, touch_to_add
from barbtx.model.repositories.listing import ordering
from barbtx.model.repositories.projects import project_key
from barbtx.model.repositories.quotas import count_of, enforce
from barbtx.times import Clock, utcnow

# Rows that one transaction deletes, so that it ends in time however many there are.
_DELETED_AT_ONCE = 5000
# SQLite joins at most 500 queries to one.
_OBJECTS_AT_ONCE = 100


@attrs.frozen
class ConsumerKind:
    """What consumers of one kind of object are.

    :ivar fields: what a consumer says of itself.
    :ivar sort: the columns that a list goes by.
    """

    model: type
    owner: type
    fields: tuple[str, ...]
    sort: tuple[str, ...]


SECRET_CONSUMERS = ConsumerKind(
    models.SecretConsumer, models.Secret, ("service", "resource_type", "resource_id"), ("created_at",)
)
CONTAINER_CONSUMERS = ConsumerKind(models.ContainerConsumer, models.Container, ("name", "URL"), ("name",))


@attrs.frozen
class Consumers:
    """An object's consumers after a change, and when that was.

    :ivar embedded: those that are shown with the object.
    """

    embedded: tuple[Mapping[str, str], ...]
    updated: datetime.datetime


@attrs.frozen
class ConsumerRepo:
    database: Tables = attrs.field(converter=in_tables("consumers"))
    clock: Clock
    kind: ConsumerKind
    quota: int
    limits: ObjectLimits = ObjectLimits()

    def add(self, object_id: str, project_id: str, fields: Mapping[str, str]) -> Deferred[Consumers]:
        """Register a consumer; one that is there already is there once.

        :param project_id: external id of whoever registers.
        :raises NotFound: the object is gone.
        :raises QuotaReached: the project may register no more.
        :raises LimitReached: the object may have no more, or no more of this project.
        :raises ProjectClosed: its project, or the object's, was deleted in Keystone.
        """
        now = utcnow(self.clock)
        model = self.kind.model

        def work(session: Session) -> Consumers:
            touch_to_add(session, self.kind.owner, object_id, now)
            digest = self._digest(fields)
            if session.scalar(select(model.id).where(model.object_id == object_id, model.digest == digest)) is None:
                project = project_key(session, project_id, now)
                enforce(session, project, "consumers", self.quota, count_of(model))
                self._enforce_limits(session, object_id, project)
                session.execute(
                    insert(model).values(
                        id=str(uuid.uuid4()),
                        object_id=object_id,
                        project_id=project,
                        digest=digest,
                        status=ACTIVE,
                        created_at=now,
                        updated_at=now,
                        **{name: fields[name] for name in self.kind.fields},
                    )
                )
            return Consumers(self._embedded(session, object_id), now)

        return self.database.interact(work)

    def _enforce_limits(self, session: Session, object_id: str, project: str) -> None:
        """The object's row is locked, so that of concurrent registrations each counts the ones before it."""
        model, limits = self.kind.model, self.limits
        of_object = model.object_id == object_id
        if _has_as_many_as(session, model, limits.max_consumers_per_object, of_object):
            raise LimitReached("consumers of one object", limits.max_consumers_per_object)
        if _has_as_many_as(session, model, limits.max_consumers_per_registrant, of_object, model.project_id == project):
            raise LimitReached(
                "consumers of one object that one project registers", limits.max_consumers_per_registrant
            )

    def exist(self, object_id: str) -> Deferred[bool]:
        """Whether an object has consumers."""
        return self.database.interact(lambda session: has_consumers(session, self.kind, object_id), write=False)

    def remove(
        self, object_id: str, owner_project: str, project_id: str, fields: Mapping[str, str]
    ) -> Deferred[Consumers]:
        """Remove a consumer.

        :param owner_project: external id of the object's project.
        :param project_id: external id of whoever removes it.
        :raises NotFound: it is not registered, or the object is gone.
        :raises Forbidden: neither the object nor the consumer is the caller's project's.
        """
        now = utcnow(self.clock)
        model = self.kind.model

        def work(session: Session) -> Consumers:
            touch(session, self.kind.owner, object_id, now)
            row = session.execute(
                select(model.id, Project.external_id)
                .join(Project, Project.id == model.project_id)
                .where(model.object_id == object_id, model.digest == self._digest(fields))
            ).first()
            if row is None:
                raise NotFound("Consumer not found.")
            if project_id not in (owner_project, row.external_id):
                raise Forbidden
            session.execute(delete(model).where(model.id == row.id))
            return Consumers(self._embedded(session, object_id), now)

        return self.database.interact(work)

    def list_page(self, object_id: str, limit: int, offset: int) -> Deferred[Page[Consumer]]:
        """A page of an object's consumers."""
        model = self.kind.model

        def work(session: Session) -> Page[Consumer]:
            total = session.scalar(select(func.count()).select_from(model).where(model.object_id == object_id))
            if offset >= total:
                return Page((), total)
            order = ordering(
                session, [(getattr(model, name), False) for name in self.kind.sort], (model.created_at, model.id)
            )
            rows = session.execute(
                self._select().where(model.object_id == object_id).order_by(*order).limit(limit).offset(offset)
            )
            return Page(tuple(self._consumer(row) for row in rows), total)

        return self.database.interact(work, write=False, listing=True)

    def get(self, object_id: str, consumer_id: str) -> Deferred[Consumer | None]:
        """One consumer of an object, by its own id."""

        def work(session: Session) -> Consumer | None:
            model = self.kind.model
            row = session.execute(self._select().where(model.object_id == object_id, model.id == consumer_id)).first()
            return self._consumer(row) if row else None

        return self.database.interact(work, write=False)

    def _embedded(self, session: Session, object_id: str) -> tuple[Mapping[str, str], ...]:
        found = embedded_consumers(session, self.kind, [object_id], self.limits.max_embedded_consumers)
        return found.get(object_id, ())

    def _select(self):
        model = self.kind.model
        return select(
            *(getattr(model, name) for name in self.kind.fields), model.created_at, model.updated_at, model.status
        )

    def _consumer(self, row) -> Consumer:
        return Consumer(dict(zip(self.kind.fields, row)), *row[len(self.kind.fields) :])

    def _digest(self, fields: Mapping[str, str]) -> str:
        text = json.dumps([fields[name] for name in self.kind.fields])
        return hashlib.sha256(text.encode()).hexdigest()


def has_consumers(session: Session, kind: ConsumerKind, object_id: str) -> bool:
    """Whether an object has consumers."""
    model = kind.model
    return session.scalar(select(model.id).where(model.object_id == object_id).limit(1)) is not None


def embedded_consumers(
    session: Session, kind: ConsumerKind, object_ids: Sequence[str], limit: int
) -> dict[str, tuple[Mapping[str, str], ...]]:
    """The oldest consumers of some objects, by the objects' ids; an object without any is left out.

    :param limit: consumers of one object, at most. What is read does not depend on how many there are.
    """
    if len(object_ids) > 1:
        # Most objects have none, and to plan a query for each of them takes PostgreSQL longer than to ask this first.
        owner, has_some = kind.owner, exists().where(kind.model.object_id == kind.owner.id)
        object_ids = session.scalars(select(owner.id).where(owner.id.in_(object_ids), has_some)).all()
    found: dict[str, list[Mapping[str, str]]] = {}
    for start in range(0, len(object_ids), _OBJECTS_AT_ONCE):
        ids = object_ids[start : start + _OBJECTS_AT_ONCE]
        parameters = {f"object_{n}": object_id for n, object_id in enumerate(ids)}
        for object_id, *values in session.execute(_oldest(kind, len(ids)), parameters | {"most": limit}):
            found.setdefault(object_id, []).append(dict(zip(kind.fields, values)))
    return {object_id: tuple(consumers) for object_id, consumers in found.items()}


@lru_cache(maxsize=2 * _OBJECTS_AT_ONCE)
def _oldest(kind: ConsumerKind, count: int) -> Select:
    """One query for each of so many objects, joined: each reads its own end of an index, on every database."""
    model = kind.model
    columns = (model.object_id, *(getattr(model, name) for name in kind.fields))
    parts = [
        select(*columns, model.created_at, model.id)
        .where(model.object_id == bindparam(f"object_{n}"))
        .order_by(model.created_at, model.id)
        .limit(bindparam("most"))
        .subquery()
        for n in range(count)
    ]
    joined = union_all(*(select(part) for part in parts)).subquery() if count > 1 else parts[0]
    return select(*(joined.c[column.name] for column in columns)).order_by(joined.c.created_at, joined.c.id)


def delete_some_consumers(session: Session, model: type, object_ids: Sequence[str]) -> int:
    """Delete consumers of objects, if there are too many of them to be deleted together with the objects.

    :param model: of the consumers.
    :return: how many were deleted; 0 if the rest can go with the objects.
    """
    ids = session.scalars(select(model.id).where(model.object_id.in_(object_ids)).limit(_DELETED_AT_ONCE + 1)).all()
    if len(ids) <= _DELETED_AT_ONCE:
        return 0
    session.execute(delete(model).where(model.id.in_(ids)))
    return len(ids)


def _has_as_many_as(session: Session, model: type, limit: int, *conditions: ColumnElement[bool]) -> bool:
    """Whether there are as many rows as a limit; no more than those are read."""
    some = select(model.id).where(*conditions).limit(limit).subquery()
    return session.scalar(select(func.count()).select_from(some)) >= limit
