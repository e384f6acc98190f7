"""Idempotency keys: which object the first request under each key created."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import attrs
from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import TooManyRequests
from barbtx.model import models
from barbtx.model.records import Created
from barbtx.model.repositories.base import Repository
from barbtx.times import utcnow

_I = models.IdempotencyKey
# Expired keys that one transaction deletes.
_DELETE_BATCH = 100


class DuplicateKey(Exception):
    """An earlier or concurrent request of the same user has used the key; nothing was stored."""


@attrs.frozen
class StoredRequest:
    """The first request under a key.

    :ivar fingerprint: identifies the request, so that a retry is told from another request under the same key.
    :ivar created: the object that the response describes.
    """

    fingerprint: str
    created: Created


@attrs.frozen
class IdempotencyRecord:
    """A key to be stored together with the object that the request creates.

    :ivar digest: covers the key and the user who sent it.
    :ivar life: seconds until the key expires.
    :ivar limit: maximum number of stored keys of one project.
    """

    digest: str
    first: StoredRequest
    life: float
    limit: int


@attrs.frozen
class IdempotencyRepo(Repository):
    """The stored keys of all projects.

    :ivar life: seconds until a key expires.
    """

    tables = "idempotency"

    life: float

    def find(self, project_id: str, digest: str) -> Deferred[StoredRequest | None]:
        """The first request under a key, or None if the key is not stored or has expired.

        :param project_id: external id.
        """
        since = utcnow(self.clock) - datetime.timedelta(seconds=self.life)

        def work(session: Session) -> StoredRequest | None:
            row = session.execute(
                select(_I.fingerprint, _I.object_type, _I.object_id, _I.transport_key_id)
                .join(models.Project, models.Project.id == _I.project_id)
                .where(models.Project.external_id == project_id, _I.digest == digest, _I.created_at > since)
            ).first()
            if row is None:
                return None
            created = Created(collection=row.object_type, id=row.object_id, transport_key_id=row.transport_key_id)
            return StoredRequest(row.fingerprint, created)

        return self._interact(work, write=False)


def remember_key(session: Session, project: str, record: IdempotencyRecord | None, now: datetime.datetime) -> None:
    """Store a key, if there is one, in the transaction that creates the object of the request.

    It must run before the quota is enforced: a concurrent retry must not be refused because of the object that the
    first request created.

    :param project: the project's primary key.
    :raises DuplicateKey: the key is already stored.
    :raises TooManyRequests: the project has too many keys.
    """
    if record is None:
        return
    expired = _I.created_at <= now - datetime.timedelta(seconds=record.life)
    session.execute(delete(_I).where(_I.project_id == project, _I.digest == record.digest, expired))
    old = session.scalars(select(_I.digest).where(_I.project_id == project, expired).limit(_DELETE_BATCH)).all()
    if old:
        session.execute(delete(_I).where(_I.project_id == project, _I.digest.in_(old)))
    stored = session.execute(select(func.count()).select_from(_I).where(_I.project_id == project)).scalar_one()
    if stored >= record.limit and not _is_stored(session, project, record.digest):
        raise TooManyRequests(
            "The project has too many idempotency keys; send the request without one, or retry later.",
            headers={"Retry-After": "60"},
        )
    created = record.first.created
    try:
        with session.begin_nested():
            session.execute(
                insert(_I).values(
                    project_id=project,
                    digest=record.digest,
                    created_at=now,
                    fingerprint=record.first.fingerprint,
                    object_type=created.collection,
                    object_id=created.id,
                    transport_key_id=created.transport_key_id,
                )
            )
    except IntegrityError:
        raise DuplicateKey from None


def forget_keys(session: Session, ids: Sequence[str]) -> None:
    """Delete the keys under which objects were created, in the transaction that deletes the objects."""
    session.execute(delete(_I).where(_I.object_id.in_(ids)))


def _is_stored(session: Session, project: str, digest: str) -> bool:
    return session.scalar(select(_I.digest).where(_I.project_id == project, _I.digest == digest)) is not None
