"""Secrets: metadata, and the ciphertext if the store keeps it in this database."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs
from sqlalchemy import ColumnElement, Row, bindparam, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session
from twisted.internet.defer import Deferred

from barbtx.errors import Conflict, NotFound, SecretInUse
from barbtx.limits import ObjectLimits
from barbtx.model import models
from barbtx.model.records import ACTIVE, EncryptedDatum, NewSecret, Page, Secret, StoredPayload
from barbtx.model.repositories.acls import access, access_columns, delete_acls, is_listed, touch
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.consumers import (
    SECRET_CONSUMERS,
    delete_some_consumers,
    embedded_consumers,
    has_consumers,
)
from barbtx.model.repositories.idempotency import IdempotencyRecord, forget_keys, remember_key
from barbtx.model.repositories.keks import KEK_COLUMNS, KEKGone, kek_meta
from barbtx.model.repositories.listing import Condition, apply_conditions, count, ordering
from barbtx.model.repositories.projects import find_project, project_key, require_open
from barbtx.model.repositories.quotas import count_secrets, enforce_quota
from barbtx.model.repositories.rows import AnySelect, affected_rows, fields
from barbtx.times import utcnow

_S = models.Secret
_D = models.EncryptedDatum
_COLUMNS = (
    _S.id,
    models.Project.external_id.label("project_id"),
    _S.name,
    _S.secret_type,
    _S.expiration,
    _S.algorithm,
    _S.bit_length,
    _S.mode,
    _S.creator_id,
    _S.created_at.label("created"),
    _S.updated_at.label("updated"),
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

#: The columns that lists of secrets can be filtered and sorted by, by the API's names.
COLUMNS: Mapping[str, InstrumentedAttribute[Any]] = {
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
    """The secret has a payload already.

    :ivar payload: that payload.
    """

    def __init__(self, payload: StoredPayload | None) -> None:
        super().__init__("Secret already has data, cannot modify it.")
        self.payload = payload


@attrs.frozen
class SecretRepo(Repository):
    """The secrets of all projects.

    :ivar quota: secrets that a project without its own quota may have; negative is unlimited.
    """

    tables = "secrets"

    quota: int = -1
    limits: ObjectLimits = attrs.field(factory=ObjectLimits)

    def create(self, new: NewSecret, idempotency: IdempotencyRecord | None = None) -> Deferred[None]:
        """Store a secret and its payload, if it has one. The project's row is created if it is missing.

        :param idempotency: see :func:`remember_key`.
        :raises QuotaReached: the project may have no more secrets.
        :raises ProjectClosed: the project was deleted in Keystone.
        :raises KEKGone: the project key that encrypted the payload no longer exists.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            project = project_key(session, new.project_id, now)
            remember_key(session, project, idempotency, now)
            enforce_quota(session, project, "secrets", self.quota, count_secrets(now))
            insert_secret(session, project, new, now)

        return self._interact(work)

    def get(
        self, secret_id: str, user_id: str | None = None, *, with_payload: bool = False, with_consumers: bool = False
    ) -> Deferred[Secret | None]:
        """A secret of any project, with a user's access to it, or None if it has expired.

        :param with_payload: whether to read the location of the payload, and its ciphertext.
        :param with_consumers: whether to read its consumers.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> Secret | None:
            secret = find_secret(session, secret_id, user_id, now, with_payload)
            if secret is None or not with_consumers:
                return secret
            (secret,) = self._with_consumers(session, [secret])
            return secret

        return self._interact(work, write=False, listing=with_consumers)

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
        :param conditions: conditions that all secrets meet.
        :param sort: names in :data:`COLUMNS`, each with True for descending order. Ties are sorted oldest first.
        :param shared_with: a user. If given, the page lists secrets of any project whose ACL names this user.
        :param with_consumers: whether to read their consumers.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> Page[Secret]:
            if shared_with is not None:
                scope = is_listed(_S.id, shared_with)
            else:
                scope = _S.project_id == find_project(session, project_id)
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
            secrets = [Secret(**fields(row, _COLUMNS)) for row in rows]
            if with_consumers:
                secrets = self._with_consumers(session, secrets)
            return Page(tuple(secrets), total)

        return self._interact(work, write=False, listing=True)

    def _with_consumers(self, session: Session, secrets: Sequence[Secret]) -> list[Secret]:
        found = embedded_consumers(
            session, SECRET_CONSUMERS, [secret.id for secret in secrets], self.limits.max_embedded_consumers
        )
        return [attrs.evolve(secret, consumers=found.get(secret.id, ())) for secret in secrets]

    def add_payload(self, secret_id: str, payload: StoredPayload) -> Deferred[None]:
        """Add the payload of a secret that has none.

        :raises NotFound: the secret does not exist or has expired.
        :raises HasPayload: the secret has a payload.
        :raises ProjectClosed: the secret's project was deleted in Keystone.
        :raises KEKGone: the project key that encrypted the payload no longer exists.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            changed = (
                update(_S)
                .where(_S.id == secret_id, _S.content_type.is_(None), _unexpired(now))
                .values(updated_at=now, **_payload_values(payload))
            )
            if affected_rows(session, changed) != 1:
                secret = find_secret(session, secret_id, None, now, with_payload=True)
                if secret is None:
                    raise NotFound("Secret not found.")
                raise HasPayload(secret.payload)
            require_open(session, _S, secret_id, now)
            _insert_datum(session, secret_id, payload)

        return self._interact(work)

    def delete(self, secret_id: str, *, even_if_used: bool = True) -> Deferred[bool]:
        """Delete a secret with its payload, metadata, ACL and consumers, and remove it from all containers.

        :param even_if_used: whether to delete a secret that has consumers.
        :return: whether the secret is gone. If it has too many consumers for one transaction, only some of them were
            deleted; call the method again.
        :raises NotFound: the secret does not exist.
        :raises SecretInUse: the secret has consumers.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> bool:
            touch(session, _S, secret_id, now)
            if not even_if_used and has_consumers(session, SECRET_CONSUMERS, secret_id):
                raise SecretInUse
            return delete_secrets(session, [secret_id])

        return self._interact(work)


def delete_secrets(session: Session, ids: Sequence[str]) -> bool:
    """Delete secrets with their payloads, metadata, ACLs and consumers, and remove them from all containers.

    :return: whether the secrets are gone. If they have too many consumers for one transaction, only some of these were
        deleted; call the function again in another transaction.
    """
    if delete_some_consumers(session, models.SecretConsumer, ids):
        return False
    delete_acls(session, ids)
    forget_keys(session, ids)
    for model, owner in _CHILDREN:
        session.execute(delete(model).where(owner.in_(ids)))
    session.execute(delete(_S).where(_S.id.in_(ids)))
    return True


def list_payloads(session: Session, project: str, after: str, limit: int) -> list[tuple[str, StoredPayload | None]]:
    """A batch of a project's secrets in the order of their ids, expired ones included, with their payloads.

    :param project: primary key.
    :param after: the last id of the batch before; empty for the first batch.
    """
    rows = session.execute(
        select(_S.id, _S.content_type, *_PAYLOAD_COLUMNS)
        .outerjoin(_D, _D.secret_id == _S.id)
        .outerjoin(models.KEK, models.KEK.id == _D.kek_id)
        .where(_S.project_id == project, _S.id > after)
        .order_by(_S.id)
        .limit(limit)
    )
    return [(row.id, _payload(row)) for row in rows]


def insert_secret(session: Session, project: str, new: NewSecret, now: datetime.datetime) -> None:
    """Insert a secret and, if its store keeps it in this database, its ciphertext.

    :param project: primary key of its project.
    :raises KEKGone: the project key that encrypted the payload no longer exists.
    """
    session.execute(
        insert(_S).values(
            id=new.id,
            project_id=project,
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
            **(_payload_values(new.payload) if new.payload else {}),
        )
    )
    if new.payload:
        _insert_datum(session, new.id, new.payload)


def find_secret(
    session: Session, secret_id: str, user_id: str | None, now: datetime.datetime, with_payload: bool = False
) -> Secret | None:
    """A secret with a user's access to it, or None if it does not exist or has expired."""
    parameters = {"secret_id": secret_id, "now": now} | ({} if user_id is None else {"user_id": user_id})
    row = session.execute(_find_query(user_id is not None, with_payload), parameters).first()
    if row is None:
        return None
    payload = _payload(row) if with_payload else None
    return Secret(**fields(row, _COLUMNS), access=access(row), payload=payload)


def _payload(row: Row[*tuple[Any, ...]]) -> StoredPayload | None:
    """The payload in a row with :data:`_PAYLOAD_COLUMNS` and the content type."""
    if row.content_type is None:
        return None
    datum = None
    if row.cypher_text is not None:
        datum = EncryptedDatum(
            kek=kek_meta(row), cypher_text=bytes(row.cypher_text), kek_meta_extended=row.kek_meta_extended
        )
    return StoredPayload(
        plugin=row.store_plugin,
        content_type=row.content_type,
        metadata=json.loads(row.store_metadata),
        datum=datum,
    )


@lru_cache
def _find_query(with_user: bool, with_payload: bool) -> AnySelect:
    """The most frequent query. It is cached, because building it takes a third of the time of finding a secret."""
    query: AnySelect = select(*_COLUMNS, *access_columns(_S.id, bindparam("user_id") if with_user else None)).join(
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


def _payload_values(payload: StoredPayload) -> dict[str, str]:
    return {
        "content_type": payload.content_type,
        "store_plugin": payload.plugin,
        "store_metadata": json.dumps(dict(payload.metadata)),
    }


def _insert_datum(session: Session, secret_id: str, payload: StoredPayload) -> None:
    """Insert the ciphertext of a payload, if it has one.

    :raises KEKGone: the project key that encrypted the payload no longer exists.
    """
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
        # This transaction has locked the secret's row, so that the violated foreign key is that of the project key.
        raise KEKGone from None
