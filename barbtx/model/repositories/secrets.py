"""Secrets: metadata, and the ciphertext of those whose store keeps it in this database."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping

import attrs
from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from barbtx.errors import Conflict, NotFound
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.records import ACTIVE, EncryptedDatum, KEKMeta, NewSecret, Page, Secret, StoredPayload
from barbtx.model.repositories.keks import KEK_COLUMNS
from barbtx.model.repositories.listing import Condition, apply_conditions, ordering
from barbtx.model.repositories.projects import project_key
from barbtx.times import utcnow

_S = models.Secret
_D = models.EncryptedDatum
_COLUMNS = (
    _S.id, models.Project.external_id, _S.name, _S.secret_type, _S.expiration, _S.algorithm, _S.bit_length, _S.mode,
    _S.creator_id, _S.created_at, _S.updated_at, _S.status, _S.content_type,
)
_PAYLOAD_COLUMNS = (_S.store_plugin, _S.store_metadata, _D.cypher_text, _D.kek_meta_extended, *KEK_COLUMNS)

#: What lists of secrets can be filtered and sorted by, under the API's names.
COLUMNS: Mapping[str, ColumnElement] = {
    "algorithm": _S.algorithm, "bit_length": _S.bit_length, "created": _S.created_at, "expiration": _S.expiration,
    "mode": _S.mode, "name": _S.name, "secret_type": _S.secret_type, "status": _S.status, "updated": _S.updated_at,
}


@attrs.frozen
class SecretRepo:
    database: Database
    clock: IReactorTime

    def create(self, new: NewSecret) -> Deferred[None]:
        """Store a secret, with its payload if it has one; the project is created with it if need be."""
        now = utcnow(self.clock)
        return self.database.interact(lambda session: insert_secret(session, new, now))

    def get(self, secret_id: str, *, with_payload: bool = False) -> Deferred[Secret | None]:
        """A secret of any project, unless it has expired.

        :param with_payload: read also where the payload is, and the ciphertext.
        """
        now = utcnow(self.clock)
        return self.database.interact(lambda session: find_secret(session, secret_id, now, with_payload), write=False)

    def list(self, project_id: str, conditions: tuple[Condition, ...], sort: tuple[tuple[str, bool], ...],
             limit: int, offset: int) -> Deferred[Page[Secret]]:
        """A page of a project's secrets that have not expired.

        :param project_id: external id.
        :param conditions: all of which must hold.
        :param sort: names in :data:`COLUMNS`, each with True for descending; oldest first if empty.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> Page[Secret]:
            query = apply_conditions(
                select(*_COLUMNS).join(models.Project, models.Project.id == _S.project_id)
                .where(models.Project.external_id == project_id, _unexpired(now)),
                conditions, COLUMNS,
            )
            total = session.scalar(query.with_only_columns(func.count(), maintain_column_froms=True))
            if offset >= total:
                return Page((), total)
            order = ordering(session, [(COLUMNS[name], desc) for name, desc in sort], (_S.created_at, _S.id))
            rows = session.execute(query.order_by(*order).limit(limit).offset(offset))
            return Page(tuple(Secret(*row) for row in rows), total)

        return self.database.interact(work, write=False)

    def add_payload(self, secret_id: str, payload: StoredPayload) -> Deferred[None]:
        """Give a secret its payload, once.

        :raises NotFound: the secret is gone, or has expired.
        :raises Conflict: it has a payload.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            changed = session.execute(
                update(_S).where(_S.id == secret_id, _S.content_type.is_(None), _unexpired(now))
                .values(updated_at=now, **_payload_columns(payload))
            )
            if changed.rowcount != 1:
                if find_secret(session, secret_id, now) is None:
                    raise NotFound("Secret not found.")
                raise Conflict("Secret already has data, cannot modify it.")
            _insert_datum(session, secret_id, payload)

        return self.database.interact(work)

    def delete(self, secret_id: str) -> Deferred[None]:
        """Delete a secret with everything below it.

        :raises NotFound: it is gone already.
        """
        def work(session: Session) -> None:
            session.execute(delete(_D).where(_D.secret_id == secret_id))
            if session.execute(delete(_S).where(_S.id == secret_id)).rowcount != 1:
                raise NotFound("Secret not found.")

        return self.database.interact(work)


def insert_secret(session: Session, new: NewSecret, now: datetime.datetime) -> None:
    """Insert a secret and, if the store leaves it here, its ciphertext."""
    session.execute(insert(_S).values(
        id=new.id, project_id=project_key(session, new.project_id, now), name=new.name, secret_type=new.secret_type,
        expiration=new.expiration, algorithm=new.algorithm, bit_length=new.bit_length, mode=new.mode,
        creator_id=new.creator_id, status=ACTIVE, created_at=now, updated_at=now,
        **(_payload_columns(new.payload) if new.payload else {}),
    ))
    if new.payload:
        _insert_datum(session, new.id, new.payload)


def find_secret(session: Session, secret_id: str, now: datetime.datetime, with_payload: bool = False) -> Secret | None:
    """Read a secret that has not expired."""
    query = select(*_COLUMNS).join(models.Project, models.Project.id == _S.project_id)
    if with_payload:
        query = (query.add_columns(*_PAYLOAD_COLUMNS).outerjoin(_D, _D.secret_id == _S.id)
                 .outerjoin(models.KEK, models.KEK.id == _D.kek_id))
    row = session.execute(query.where(_S.id == secret_id, _unexpired(now))).first()
    if row is None:
        return None
    secret = Secret(*row[:len(_COLUMNS)])
    if not with_payload or secret.content_type is None:
        return secret
    plugin, metadata, cypher_text, extended, *kek = row[len(_COLUMNS):]
    datum = EncryptedDatum(KEKMeta(*kek), bytes(cypher_text), extended) if cypher_text is not None else None
    return attrs.evolve(secret, payload=StoredPayload(plugin, secret.content_type, json.loads(metadata), datum))


def _unexpired(now: datetime.datetime) -> ColumnElement[bool]:
    return or_(_S.expiration.is_(None), _S.expiration > now)


def _payload_columns(payload: StoredPayload) -> dict[str, str]:
    return {"content_type": payload.content_type, "store_plugin": payload.plugin,
            "store_metadata": json.dumps(dict(payload.metadata))}


def _insert_datum(session: Session, secret_id: str, payload: StoredPayload) -> None:
    if payload.datum is not None:
        session.execute(insert(_D).values(
            secret_id=secret_id, kek_id=payload.datum.kek.id, cypher_text=payload.datum.cypher_text,
            kek_meta_extended=payload.datum.kek_meta_extended,
        ))
