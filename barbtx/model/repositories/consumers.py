"""Consumers: who has said that they use a secret or a container."""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping

import attrs
from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import Forbidden, NotFound
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.models import Project
from barbtx.model.records import ACTIVE, Consumer, Page
from barbtx.model.repositories.acls import touch, touch_to_add
from barbtx.model.repositories.listing import ordering
from barbtx.model.repositories.projects import project_key
from barbtx.model.repositories.quotas import count_of, enforce
from barbtx.times import Clock, utcnow


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


SECRET_CONSUMERS = ConsumerKind(models.SecretConsumer, models.Secret,
                                ("service", "resource_type", "resource_id"), ("created_at",))
CONTAINER_CONSUMERS = ConsumerKind(models.ContainerConsumer, models.Container, ("name", "URL"), ("name",))


@attrs.frozen
class Consumers:
    """An object's consumers after a change, and when that was."""

    all: tuple[Mapping[str, str], ...]
    updated: datetime.datetime


@attrs.frozen
class ConsumerRepo:
    database: Database
    clock: Clock
    kind: ConsumerKind
    quota: int

    def add(self, object_id: str, project_id: str, fields: Mapping[str, str]) -> Deferred[Consumers]:
        """Register a consumer; one that is there already is there once.

        :param project_id: external id of whoever registers.
        :raises NotFound: the object is gone.
        :raises QuotaReached: the project may register no more.
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
                session.execute(insert(model).values(
                    id=str(uuid.uuid4()), object_id=object_id, project_id=project, digest=digest, status=ACTIVE,
                    created_at=now, updated_at=now, **{name: fields[name] for name in self.kind.fields}))
            return Consumers(consumers_of(session, self.kind, [object_id]).get(object_id, ()), now)

        return self.database.interact(work)

    def remove(self, object_id: str, owner_project: str, project_id: str,
               fields: Mapping[str, str]) -> Deferred[Consumers]:
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
                select(model.id, Project.external_id).join(Project, Project.id == model.project_id)
                .where(model.object_id == object_id, model.digest == self._digest(fields))).first()
            if row is None:
                raise NotFound("Consumer not found.")
            if project_id not in (owner_project, row.external_id):
                raise Forbidden
            session.execute(delete(model).where(model.id == row.id))
            return Consumers(consumers_of(session, self.kind, [object_id]).get(object_id, ()), now)

        return self.database.interact(work)

    def list(self, object_id: str, limit: int, offset: int) -> Deferred[Page[Consumer]]:
        """A page of an object's consumers."""
        model = self.kind.model

        def work(session: Session) -> Page[Consumer]:
            total = session.scalar(select(func.count()).select_from(model).where(model.object_id == object_id))
            if offset >= total:
                return Page((), total)
            order = ordering(session, [(getattr(model, name), False) for name in self.kind.sort],
                             (model.created_at, model.id))
            rows = session.execute(self._select().where(model.object_id == object_id)
                                   .order_by(*order).limit(limit).offset(offset))
            return Page(tuple(self._consumer(row) for row in rows), total)

        return self.database.interact(work, write=False)

    def get(self, object_id: str, consumer_id: str) -> Deferred[Consumer | None]:
        """One consumer of an object, by its own id."""
        def work(session: Session) -> Consumer | None:
            model = self.kind.model
            row = session.execute(
                self._select().where(model.object_id == object_id, model.id == consumer_id)).first()
            return self._consumer(row) if row else None

        return self.database.interact(work, write=False)

    def _select(self):
        model = self.kind.model
        return select(*(getattr(model, name) for name in self.kind.fields),
                      model.created_at, model.updated_at, model.status)

    def _consumer(self, row) -> Consumer:
        return Consumer(dict(zip(self.kind.fields, row)), *row[len(self.kind.fields):])

    def _digest(self, fields: Mapping[str, str]) -> str:
        text = json.dumps([fields[name] for name in self.kind.fields])
        return hashlib.sha256(text.encode()).hexdigest()


def consumers_of(session: Session, kind: ConsumerKind,
                 object_ids: Iterable[str]) -> dict[str, tuple[Mapping[str, str], ...]]:
    """The consumers of some objects, by the objects' ids."""
    model = kind.model
    rows = session.execute(
        select(model.object_id, *(getattr(model, name) for name in kind.fields))
        .where(model.object_id.in_(list(object_ids))).order_by(model.created_at, model.id))
    found: dict[str, tuple[Mapping[str, str], ...]] = {}
    for object_id, *values in rows:
        found[object_id] = (*found.get(object_id, ()), dict(zip(kind.fields, values)))
    return found
