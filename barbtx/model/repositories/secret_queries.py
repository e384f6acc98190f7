"""Reading, inserting and deleting secrets, for the repositories that do so. Functions of a session."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, FromClause, bindparam, delete, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from barbtx.model import models
from barbtx.model.lookups import Lookup, NamedRow
from barbtx.model.records import ACTIVE, EncryptedDatum, NewSecret, Secret, StoredPayload
from barbtx.model.repositories.acls import access, access_columns, delete_acls
from barbtx.model.repositories.consumers import delete_some_consumers
from barbtx.model.repositories.idempotency import forget_keys
from barbtx.model.repositories.keks import KEK_COLUMNS, KEKGone, kek_meta
from barbtx.model.repositories.rows import AnySelect, fields, table_of

_S = models.Secret
_D = models.EncryptedDatum
#: The columns of a secret, labelled with the fields of its record.
SECRET_COLUMNS = (
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
# They are the first fields of the record, in the same order.
_read_columns = attrgetter(*(column.key for column in SECRET_COLUMNS))
_PAYLOAD_COLUMNS = (_S.store_plugin, _S.store_metadata, _D.cypher_text, _D.kek_meta_extended, *KEK_COLUMNS)

#: Insertions by the names of columns. They are made once, and into tables instead of models, because making one, and
#: what the ORM adds to it, takes longer than executing it.
INSERT_SECRETS, INSERT_DATA = insert(table_of(_S)), insert(table_of(_D))

_CHILDREN = (
    (_D, _D.secret_id),
    (models.SecretUserMetadatum, models.SecretUserMetadatum.secret_id),
    (models.SecretConsumer, models.SecretConsumer.object_id),
    (models.ContainerSecret, models.ContainerSecret.secret_id),
)


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
    return [(row.id, stored_payload(row, row.content_type)) for row in rows]


def insert_secret(session: Session, project: str, new: NewSecret, now: datetime.datetime) -> None:
    """Insert a secret and, if its store keeps it in this database, its ciphertext.

    :param project: primary key of its project.
    :raises KEKGone: the project key that encrypted the payload no longer exists.
    """
    values = {"project_id": project, "status": ACTIVE, "created_at": now, "updated_at": now}
    session.execute(INSERT_SECRETS, new_values(new) | values)
    if new.payload:
        insert_datum(session, new.id, new.payload)


def new_values(new: NewSecret) -> dict[str, Any]:
    """The values of the columns that a new secret itself determines."""
    return {
        "id": new.id,
        "name": new.name,
        "secret_type": new.secret_type,
        "expiration": new.expiration,
        "algorithm": new.algorithm,
        "bit_length": new.bit_length,
        "mode": new.mode,
        "creator_id": new.creator_id,
        **(payload_values(new.payload) if new.payload else {}),
    }


def find_secret(
    session: Session, secret_id: str, user_id: str | None, now: datetime.datetime, with_payload: bool = False
) -> Secret | None:
    """A secret with a user's access to it, or None if it does not exist or has expired."""
    parameters = {"secret_id": secret_id, "now": now} | ({} if user_id is None else {"user_id": user_id})
    row = session.execute(_find_query(user_id is not None, with_payload), parameters).first()
    return read_secret(row, with_payload=with_payload)


def secret_lookup(*, with_payload: bool) -> Lookup:
    """The lookup that finds what :func:`find_secret` finds. Its keys are a secret's id and a user, as it is stored.

    :param with_payload: whether to read the location of the payload, and its ciphertext.
    """
    return _WITH_PAYLOAD if with_payload else _WITHOUT_PAYLOAD


def read_secret(row: NamedRow | None, *, with_payload: bool) -> Secret | None:
    """The secret in a row of :func:`secret_lookup`."""
    if row is None:
        return None
    payload = stored_payload(row, row.content_type) if with_payload else None
    return Secret(**fields(row, SECRET_COLUMNS), access=access(row), payload=payload)


def read_listed(row: NamedRow) -> Secret:
    """The secret in a row of a list, without access and payload."""
    return Secret(*_read_columns(row))


def stored_payload(row: NamedRow, content_type: str | None) -> StoredPayload | None:
    """The payload in a row with its store, its ciphertext and the columns of its project key.

    :param content_type: the payload's content type; None if the secret has no payload yet.
    """
    if content_type is None:
        return None
    datum = None
    if row.cypher_text is not None:
        datum = EncryptedDatum(
            kek=kek_meta(row), cypher_text=bytes(row.cypher_text), kek_meta_extended=row.kek_meta_extended
        )
    return StoredPayload(
        plugin=row.store_plugin,
        content_type=content_type,
        metadata=json.loads(row.store_metadata),
        datum=datum,
    )


@lru_cache
def _find_query(with_user: bool, with_payload: bool) -> AnySelect:
    """The most frequent query. It is cached, because building it takes a third of the time of finding a secret."""
    user_id: ColumnElement[str] | None = bindparam("user_id") if with_user else None
    return _secret_query(user_id, with_payload).where(_S.id == bindparam("secret_id"))


def _secret_query(user_id: ColumnElement[str] | None, with_payload: bool) -> AnySelect:
    """The query of secrets that have not expired at the time ``now``, with a user's access to them."""
    query: AnySelect = (
        select(*SECRET_COLUMNS, *access_columns(_S.id, user_id))
        .select_from(_S)
        .join(models.Project, models.Project.id == _S.project_id)
        .where(unexpired(bindparam("now", type_=_S.expiration.type)))
    )
    if not with_payload:
        return query
    return (
        query.add_columns(*_PAYLOAD_COLUMNS)
        .outerjoin(_D, _D.secret_id == _S.id)
        .outerjoin(models.KEK, models.KEK.id == _D.kek_id)
    )


def unexpired(now: datetime.datetime | ColumnElement[datetime.datetime]) -> ColumnElement[bool]:
    """The condition that a secret has not expired."""
    return or_(_S.expiration.is_(None), _S.expiration > now)


def payload_values(payload: StoredPayload) -> dict[str, str]:
    """The values of the columns of a secret that describe its payload."""
    return {
        "content_type": payload.content_type,
        "store_plugin": payload.plugin,
        "store_metadata": json.dumps(dict(payload.metadata)),
    }


def insert_datum(session: Session, secret_id: str, payload: StoredPayload) -> None:
    """Insert the ciphertext of a payload, if it has one.

    :raises KEKGone: the project key that encrypted the payload no longer exists.
    """
    if payload.datum is None:
        return
    try:
        session.execute(
            INSERT_DATA,
            {
                "secret_id": secret_id,
                "kek_id": payload.datum.kek.id,
                "cypher_text": payload.datum.cypher_text,
                "kek_meta_extended": payload.datum.kek_meta_extended,
            },
        )
    except IntegrityError:
        # This transaction has locked the secret's row, so that the violated foreign key is that of the project key.
        raise KEKGone from None


def _lookup(with_payload: bool) -> Lookup:
    def build(keys: FromClause) -> AnySelect:
        return _secret_query(keys.c.user_id, with_payload).where(_S.id == keys.c.secret_id)

    return Lookup(("secret_id", "user_id"), build)


_WITHOUT_PAYLOAD, _WITH_PAYLOAD = _lookup(False), _lookup(True)
