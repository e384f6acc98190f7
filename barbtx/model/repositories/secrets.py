"""Secrets: metadata, and the ciphertext of those whose store keeps it in this database."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs
from sqlalchemy import ColumnElement, Select, bindparam, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import Conflict, NotFound, SecretInUse
from barbtx.limits import ObjectLimits
from barbtx.model import models
from barbtx.model.database import Tables, in_tables
from barbtx.model.records import ACTIVE, EncryptedDatum, KEKMeta, NewSecret, Page, Secret, StoredPayload
from barbtx.model.repositories.acls import access, access_columns, delete_acls, is_listed, touch
from barbtx.model.repositories.consumers import (
    SECRET_CONSUMERS,
    delete_some_consumers,
    embedded_consumers,
    has_consumers,
)
from barbtx.model.repositories.idempotency import IdempotencyRecord, forget_keys, remember
from barbtx.model.repositories.keks import KEK_COLUMNS, KEKGone
from barbtx.model.repositories.listing import Condition, apply_conditions, count, ordering
from barbtx.model.repositories.projects import project_key, require_open
from barbtx.model.repositories.quotas import count_secrets, enforce
from barbtx.times import Clock, utcnow

_S = models.Secret
_D = models.EncryptedDatum
_COLUMNS = (
    _S.id,
    models.Project.external_id,
    _S.name,
    _S.secret_type,
    _S.expiration,
    _S.algorithm,
    _S.bit_length,
    _S.mode,
    _S.creator_id,
    _S.created_at,
    _S.updated_at,
    _S.status,
    _S.content_type,
)
_PAYLOAD_COLUMNS = (_S.store_plugin, _S.store_metadata, _D.cypher_text, _D.kek_meta_extended, *KEK_COLUMNS)

_CHILDREN = (
    (_D, _D.secret_id),
    (models.SecretUserMetadatum, models.SecretUserMetadatum.secret_id),
    (models.SecretConsumer, models.SecretConsumer.object_id),
    (models.ContainerSecret, models.ContainerSecret.secret_id),
)

#: What lists of secrets can be filtered and sorted by, under the API's names.
COLUMNS: Mapping[str, ColumnElement] = {
    "algorithm": _S.algorithm,
    "bit_length": _S.bit_length,
    "created": _S.created_at,
    "expiration": _S.expiration,
    "mode": _S.mode,
    "name": _S.name,
    "secret_type": _S.secret_type,
    "status": _S.status,
    "updated": _S.updated_at,
}


class HasPayload(Conflict):
    """A secret is given a payload only once.

    :ivar payload: the one that it has.
    """

    def __init__(self, payload: StoredPayload | None) -> None:
        super().__init__("Secret already has data, cannot modify it.")
        self.payload = payload


@attrs.frozen
class SecretRepo:
    """:ivar quota: how many secrets a project may have that has no quota of its own; negative is unlimited."""

    database: Tables = attrs.field(converter=in_tables("secrets"))
    clock: Clock
    quota: int = -1
    limits: ObjectLimits = ObjectLimits()

    def create(self, new: NewSecret, use: IdempotencyRecord | None = None) -> Deferred[None]:
        """Store a secret, with its payload if it has one; the project is created with it if need be.

        :param use: as in :func:`remember`.
        :raises QuotaReached: the project may have no more.
        :raises ProjectClosed: it was deleted in Keystone.
        :raises KEKGone: the key is gone under which the payload was encrypted.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            project = project_key(session, new.project_id, now)
            remember(session, project, use, now)
            enforce(session, project, "secrets", self.quota, count_secrets(now))
            insert_secret(session, new, now)

        return self.database.interact(work)

    def get(
        self, secret_id: str, user_id: str | None = None, *, with_payload: bool = False, with_consumers: bool = False
    ) -> Deferred[Secret | None]:
        """A secret of any project, unless it has expired, and what its ACL means to a user.

        :param with_payload: read also where the payload is, and the ciphertext.
        :param with_consumers: read also who uses it.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> Secret | None:
            secret = find_secret(session, secret_id, user_id, now, with_payload)
            if secret is None or not with_consumers:
                return secret
            (secret,) = self._with_consumers(session, [secret])
            return secret

        return self.database.interact(work, write=False, listing=with_consumers)

    def list_page(
        self,
        project_id: str,
        conditions: tuple[Condition, ...],
        sort: tuple[tuple[str, bool], ...],
        limit: int,
        offset: int,
        *,
        shared_with: str | None = None,
        with_consumers: bool = False,
    ) -> Deferred[Page[Secret]]:
        """A page of a project's secrets that have not expired.

        :param project_id: external id.
        :param conditions: all of which must hold.
        :param sort: names in :data:`COLUMNS`, each with True for descending; oldest first if empty.
        :param shared_with: a user; the secrets of any project whose ACL names them, instead of the project's.
        :param with_consumers: read also who uses them.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> Page[Secret]:
            if shared_with is not None:
                scope = is_listed(_S.id, shared_with)
            else:
                scope = _S.project_id == session.scalar(
                    select(models.Project.id).where(models.Project.external_id == project_id)
                )
            query = apply_conditions(select(*_COLUMNS).where(scope, _unexpired(now)), conditions, COLUMNS)
            total = count(session, query, _S.id)
            if offset >= total:
                return Page((), total)
            order = ordering(session, [(COLUMNS[name], desc) for name, desc in sort], (_S.created_at, _S.id))
            rows = session.execute(
                query.join(models.Project, models.Project.id == _S.project_id)
                .order_by(*order)
                .limit(limit)
                .offset(offset)
            )
            secrets = [Secret(*row) for row in rows]
            if with_consumers:
                secrets = self._with_consumers(session, secrets)
            return Page(tuple(secrets), total)

        return self.database.interact(work, write=False, listing=True)

    def _with_consumers(self, session: Session, secrets: Sequence[Secret]) -> list[Secret]:
        found = embedded_consumers(
            session, SECRET_CONSUMERS, [secret.id for secret in secrets], self.limits.max_embedded_consumers
        )
        return [attrs.evolve(secret, consumers=found.get(secret.id, ())) for secret in secrets]

    def add_payload(self, secret_id: str, payload: StoredPayload) -> Deferred[None]:
        """Give a secret its payload, once.

        :raises NotFound: the secret is gone, or has expired.
        :raises HasPayload: it has one.
        :raises ProjectClosed: its project was deleted in Keystone.
        :raises KEKGone: the key is gone under which the payload was encrypted.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            changed = session.execute(
                update(_S)
                .where(_S.id == secret_id, _S.content_type.is_(None), _unexpired(now))
                .values(updated_at=now, **_payload_columns(payload))
            )
            if changed.rowcount != 1:
                secret = find_secret(session, secret_id, None, now, with_payload=True)
                if secret is None:
                    raise NotFound("Secret not found.")
                raise HasPayload(secret.payload)
            require_open(session, _S, secret_id, now)
            _insert_datum(session, secret_id, payload)

        return self.database.interact(work)

    def delete(self, secret_id: str, *, even_if_used: bool = True) -> Deferred[bool]:
        """Delete a secret with everything below it, or only some of its consumers if it has very many.

        :param even_if_used: whether consumers are no hindrance.
        :return: whether the secret is gone; if not, call again.
        :raises NotFound: it is gone already.
        :raises SecretInUse: it has consumers.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> bool:
            touch(session, _S, secret_id, now)
            if not even_if_used and has_consumers(session, SECRET_CONSUMERS, secret_id):
                raise SecretInUse
            return delete_secrets(session, [secret_id])

        return self.database.interact(work)


def delete_secrets(session: Session, ids: Sequence[str]) -> bool:
    """Delete secrets with everything below them, or only some of their consumers if they have very many.

    :return: whether the secrets are gone; if not, call again in another transaction.
    """
    if delete_some_consumers(session, models.SecretConsumer, ids):
        return False
    delete_acls(session, ids)
    forget_keys(session, ids)
    for model, owner in _CHILDREN:
        session.execute(delete(model).where(owner.in_(ids)))
    session.execute(delete(_S).where(_S.id.in_(ids)))
    return True


def payloads_of(session: Session, project: str, after: str, limit: int) -> list[tuple[str, StoredPayload | None]]:
    """Some secrets of a project, expired ones too, in the order of their ids, and where their payloads are.

    :param project: its primary key.
    :param after: the id that comes before theirs.
    """
    rows = session.execute(
        select(_S.id, _S.content_type, *_PAYLOAD_COLUMNS)
        .outerjoin(_D, _D.secret_id == _S.id)
        .outerjoin(models.KEK, models.KEK.id == _D.kek_id)
        .where(_S.project_id == project, _S.id > after)
        .order_by(_S.id)
        .limit(limit)
    )
    return [(row[0], _payload(row[1], *row[2:])) for row in rows]


def insert_secret(session: Session, new: NewSecret, now: datetime.datetime) -> None:
    """Insert a secret and, if the store leaves it here, its ciphertext."""
    session.execute(
        insert(_S).values(
            id=new.id,
            project_id=project_key(session, new.project_id, now),
            name=new.name,
            secret_type=new.secret_type,
            expiration=new.expiration,
            algorithm=new.algorithm,
            bit_length=new.bit_length,
            mode=new.mode,
            creator_id=new.creator_id,
            status=ACTIVE,
            created_at=now,
            updated_at=now,
            **(_payload_columns(new.payload) if new.payload else {}),
        )
    )
    if new.payload:
        _insert_datum(session, new.id, new.payload)


def find_secret(
    session: Session, secret_id: str, user_id: str | None, now: datetime.datetime, with_payload: bool = False
) -> Secret | None:
    """Read a secret that has not expired, and what its ACL means to a user."""
    parameters = {"secret_id": secret_id, "now": now} | ({} if user_id is None else {"user_id": user_id})
    row = session.execute(_find_query(user_id is not None, with_payload), parameters).first()
    if row is None:
        return None
    columns = len(_COLUMNS)
    secret = Secret(*row[:columns], access=access(*row[columns : columns + 2]))
    if not with_payload:
        return secret
    return attrs.evolve(secret, payload=_payload(secret.content_type, *row[columns + 2 :]))


def _payload(
    content_type: str | None, plugin: str, metadata: str, cypher_text: bytes | None, extended: str | None, *kek: Any
) -> StoredPayload | None:
    if content_type is None:
        return None
    datum = EncryptedDatum(KEKMeta(*kek), bytes(cypher_text), extended) if cypher_text is not None else None
    return StoredPayload(plugin, content_type, json.loads(metadata), datum)


@lru_cache
def _find_query(with_user: bool, with_payload: bool) -> Select:
    """The most frequent statement of all: to build it anew was measured at a third of what finding a secret costs."""
    query = select(*_COLUMNS, *access_columns(_S.id, bindparam("user_id") if with_user else None)).join(
        models.Project, models.Project.id == _S.project_id
    )
    if with_payload:
        query = (
            query.add_columns(*_PAYLOAD_COLUMNS)
            .outerjoin(_D, _D.secret_id == _S.id)
            .outerjoin(models.KEK, models.KEK.id == _D.kek_id)
        )
    return query.where(_S.id == bindparam("secret_id"), _unexpired(bindparam("now", type_=_S.expiration.type)))


def _unexpired(now: datetime.datetime | ColumnElement[datetime.datetime]) -> ColumnElement[bool]:
    return or_(_S.expiration.is_(None), _S.expiration > now)


def _payload_columns(payload: StoredPayload) -> dict[str, str]:
    return {
        "content_type": payload.content_type,
        "store_plugin": payload.plugin,
        "store_metadata": json.dumps(dict(payload.metadata)),
    }


def _insert_datum(session: Session, secret_id: str, payload: StoredPayload) -> None:
    """:raises KEKGone: the key is gone under which the payload was encrypted."""
    if payload.datum is None:
        return
    try:
        session.execute(
            insert(_D).values(
                secret_id=secret_id,
                kek_id=payload.datum.kek.id,
                cypher_text=payload.datum.cypher_text,
                kek_meta_extended=payload.datum.kek_meta_extended,
            )
        )
    except IntegrityError:
        # The secret is there, and in this transaction's hand: it can only be the key.
        raise KEKGone from None
