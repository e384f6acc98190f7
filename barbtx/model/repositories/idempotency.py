"""What was created by requests that may be repeated."""

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
from barbtx.model.database import Tables, in_tables
from barbtx.model.records import Created
from barbtx.times import Clock, utcnow

_I = models.IdempotencyKey
_CLEARED_AT_ONCE = 100


class DuplicateKey(Exception):
    """The caller used the key before, or uses it now in another request; nothing was stored."""


@attrs.frozen
class StoredRequest:
    """The first request under a key.

    :ivar fingerprint: by which a repetition of the request is recognized.
    :ivar created: from which its answer is built again.
    """

    fingerprint: str
    created: Created


@attrs.frozen
class IdempotencyRecord:
    """A key to be remembered together with what the request creates.

    :ivar digest: of the key and the user who sent it.
    :ivar life: seconds for which it is remembered.
    :ivar limit: how many keys of a project are remembered, at most.
    """

    digest: str
    first: StoredRequest
    life: float
    limit: int


@attrs.frozen
class IdempotencyRepo:
    """:ivar life: seconds for which a key is remembered."""

    database: Tables = attrs.field(converter=in_tables("idempotency"))
    clock: Clock
    life: float

    def find(self, project_id: str, digest: str) -> Deferred[StoredRequest | None]:
        """The first request under a key, if it is remembered.

        :param project_id: external id.
        """
        since = utcnow(self.clock) - datetime.timedelta(seconds=self.life)

        def work(session: Session) -> StoredRequest | None:
            row = session.execute(
                select(_I.fingerprint, _I.object_type, _I.object_id, _I.transport_key_id)
                .join(models.Project, models.Project.id == _I.project_id)
                .where(models.Project.external_id == project_id, _I.digest == digest, _I.created_at > since)
            ).first()
            return StoredRequest(row[0], Created(*row[1:])) if row else None

        return self.database.interact(work, write=False)


def remember(session: Session, project: str, use: IdempotencyRecord | None, now: datetime.datetime) -> None:
    """Remember a key, if there is one, in the transaction that creates what the request is for.

    It comes before the quota is enforced: a concurrent repetition must not be refused for what the first one created.

    :param project: the project's primary key.
    :raises DuplicateKey: it is remembered already.
    :raises TooManyRequests: the project has too many.
    """
    if use is None:
        return
    over = _I.created_at <= now - datetime.timedelta(seconds=use.life)
    session.execute(delete(_I).where(_I.project_id == project, _I.digest == use.digest, over))
    old = session.scalars(select(_I.digest).where(_I.project_id == project, over).limit(_CLEARED_AT_ONCE)).all()
    if old:
        session.execute(delete(_I).where(_I.project_id == project, _I.digest.in_(old)))
    if session.scalar(select(func.count()).select_from(_I).where(_I.project_id == project)) >= use.limit:
        if session.scalar(select(_I.digest).where(_I.project_id == project, _I.digest == use.digest)) is None:
            raise TooManyRequests(
                "The project has used too many idempotency keys lately; use none, or wait.",
                headers={"Retry-After": "60"},
            )
    created = use.first.created
    try:
        with session.begin_nested():
            session.execute(
                insert(_I).values(
                    project_id=project,
                    digest=use.digest,
                    created_at=now,
                    fingerprint=use.first.fingerprint,
                    object_type=created.collection,
                    object_id=created.id,
                    transport_key_id=created.transport_key_id,
                )
            )
    except IntegrityError:
        raise DuplicateKey from None


def forget_keys(session: Session, ids: Sequence[str]) -> None:
    """Forget the keys under which objects were created, in the transaction that deletes the objects."""
    session.execute(delete(_I).where(_I.object_id.in_(ids)))
