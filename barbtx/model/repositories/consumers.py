"""Consumers: services that have registered their use of a secret or container."""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import attrs
from sqlalchemy import ColumnElement, Row, bindparam, delete, exists, func, insert, select, union_all
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import Forbidden, LimitReached, NotFound
from barbtx.limits import ObjectLimits
from barbtx.model import models
from barbtx.model.models import Project
from barbtx.model.records import ACTIVE, Consumer, Page
from barbtx.model.repositories.acls import OwnerModel, touch, touch_to_add
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.listing import ordering
from barbtx.model.repositories.projects import project_key
from barbtx.model.repositories.quotas import count_of, enforce_quota
from barbtx.model.repositories.rows import AnySelect
from barbtx.times import utcnow

# Maximum number of rows that one transaction deletes, so that it ends in time.
_DELETE_BATCH = 5000
# SQLite allows at most 500 terms in a compound SELECT.
_OBJECTS_PER_QUERY = 100

ConsumerModel: TypeAlias = type[models.SecretConsumer] | type[models.ContainerConsumer]


@attrs.frozen
class ConsumerKind:
    """The consumers of one kind of object.

    :ivar model: the model of the consumers.
    :ivar owner: the model of the objects.
    :ivar fields: the fields that identify a consumer.
    :ivar sort: the columns that lists are sorted by.
    """

    model: ConsumerModel
    owner: OwnerModel
    fields: tuple[str, ...]
    sort: tuple[str, ...]


SECRET_CONSUMERS = ConsumerKind(
    models.SecretConsumer, models.Secret, ("service", "resource_type", "resource_id"), ("created_at",)
)
CONTAINER_CONSUMERS = ConsumerKind(models.ContainerConsumer, models.Container, ("name", "URL"), ("name",))


@attrs.frozen
class Consumers:
    """An object's consumers after a change.

    :ivar embedded: the consumers that the object's representation contains.
    :ivar updated: the time of the change.
    """

    embedded: tuple[Mapping[str, str], ...]
    updated: datetime.datetime


@attrs.frozen
class ConsumerRepo(Repository):
    """The consumers of one kind of object.

    :ivar quota: consumers that a project without its own quota may register; negative is unlimited.
    """

    tables = "consumers"

    kind: ConsumerKind
    quota: int
    limits: ObjectLimits = attrs.field(factory=ObjectLimits)

    def add(self, object_id: str, project_id: str, fields: Mapping[str, str]) -> Deferred[Consumers]:
        """Register a consumer. Registering it again has no effect.

        :param project_id: external id of the project that registers it.
        :raises NotFound: the object does not exist.
        :raises QuotaReached: the project may register no more consumers.
        :raises LimitReached: the object may have no more consumers, or no more of this project.
        :raises ProjectClosed: the registering project, or the object's project, was deleted in Keystone.
        """
        now = utcnow(self.clock)
        model = self.kind.model

        def work(session: Session) -> Consumers:
            touch_to_add(session, self.kind.owner, object_id, now)
            project = project_key(session, project_id, now)
            # The contract (behaviour.md, section 8) counts the quota before it is known whether the consumer is new.
            enforce_quota(session, project, "consumers", self.quota, count_of(model))
            digest = self._digest(fields)
            if session.scalar(select(model.id).where(model.object_id == object_id, model.digest == digest)) is None:
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

        return self._interact(work)

    def _enforce_limits(self, session: Session, object_id: str, project: str) -> None:
        """Check the limits. The object's row must be locked, so that concurrent registrations are counted in turn."""
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
        return self._interact(lambda session: has_consumers(session, self.kind, object_id), write=False)

    def remove(
        self, object_id: str, owner_project: str, project_id: str, fields: Mapping[str, str]
    ) -> Deferred[Consumers]:
        """Remove a consumer.

        :param owner_project: external id of the object's project.
        :param project_id: external id of the project that removes it.
        :raises NotFound: the consumer is not registered, or the object does not exist.
        :raises Forbidden: neither the object nor the consumer belongs to the project that removes it.
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

        return self._interact(work)

    def list_page(self, object_id: str, limit: int, offset: int) -> Deferred[Page[Consumer]]:
        """A page of an object's consumers."""
        model = self.kind.model

        def work(session: Session) -> Page[Consumer]:
            total = session.execute(
                select(func.count()).select_from(model).where(model.object_id == object_id)
            ).scalar_one()
            if offset >= total:
                return Page((), total)
            order = ordering(
                session, [(getattr(model, name), False) for name in self.kind.sort], (model.created_at, model.id)
            )
            rows = session.execute(
                self._select().where(model.object_id == object_id).order_by(*order).limit(limit).offset(offset)
            )
            return Page(tuple(self._consumer(row) for row in rows), total)

        return self._interact(work, write=False, listing=True)

    def get(self, object_id: str, consumer_id: str) -> Deferred[Consumer | None]:
        """One consumer of an object, by the consumer's id."""

        def work(session: Session) -> Consumer | None:
            model = self.kind.model
            row = session.execute(self._select().where(model.object_id == object_id, model.id == consumer_id)).first()
            return self._consumer(row) if row else None

        return self._interact(work, write=False)

    def _embedded(self, session: Session, object_id: str) -> tuple[Mapping[str, str], ...]:
        found = embedded_consumers(session, self.kind, [object_id], self.limits.max_embedded_consumers)
        return found.get(object_id, ())

    def _select(self) -> AnySelect:
        model = self.kind.model
        return select(
            *(getattr(model, name) for name in self.kind.fields), model.created_at, model.updated_at, model.status
        )

    def _consumer(self, row: Row[*tuple[Any, ...]]) -> Consumer:
        return Consumer(
            fields=_identity(self.kind, row), created=row.created_at, updated=row.updated_at, status=row.status
        )

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
    """The oldest consumers of each of some objects, by object id. Objects without consumers are omitted.

    :param limit: maximum number of consumers of one object. No more rows than these are read.
    """
    if len(object_ids) > 1:
        # Most objects have none, and PostgreSQL plans one query per object more slowly than it runs this one.
        owner, has_some = kind.owner, exists().where(kind.model.object_id == kind.owner.id)
        object_ids = session.scalars(select(owner.id).where(owner.id.in_(object_ids), has_some)).all()
    found: dict[str, list[Mapping[str, str]]] = {}
    for start in range(0, len(object_ids), _OBJECTS_PER_QUERY):
        ids = object_ids[start : start + _OBJECTS_PER_QUERY]
        parameters = {f"object_{n}": object_id for n, object_id in enumerate(ids)}
        for row in session.execute(_oldest(kind, len(ids)), parameters | {"most": limit}):
            found.setdefault(row.object_id, []).append(_identity(kind, row))
    return {object_id: tuple(consumers) for object_id, consumers in found.items()}


@lru_cache(maxsize=2 * _OBJECTS_PER_QUERY)
def _oldest(kind: ConsumerKind, count: int) -> AnySelect:
    """A union of one query per object, each of which reads one end of an index range, on every database."""
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


def delete_some_consumers(session: Session, model: ConsumerModel, object_ids: Sequence[str]) -> int:
    """Delete a batch of the consumers of objects, if these have too many to be deleted in one transaction.

    :param model: the model of the consumers.
    :return: how many consumers were deleted; 0 if all can be deleted together with the objects.
    """
    ids = session.scalars(select(model.id).where(model.object_id.in_(object_ids)).limit(_DELETE_BATCH + 1)).all()
    if len(ids) <= _DELETE_BATCH:
        return 0
    session.execute(delete(model).where(model.id.in_(ids)))
    return len(ids)


def _identity(kind: ConsumerKind, row: Row[*tuple[Any, ...]]) -> dict[str, str]:
    """The fields that identify the consumer in a row."""
    return {name: row._mapping[name] for name in kind.fields}


def _has_as_many_as(session: Session, model: ConsumerModel, limit: int, *conditions: ColumnElement[bool]) -> bool:
    """Whether at least ``limit`` rows meet the conditions. No more rows than these are read."""
    some = select(model.id).where(*conditions).limit(limit).subquery()
    return session.execute(select(func.count()).select_from(some)).scalar_one() >= limit
