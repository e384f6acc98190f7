"""Secrets: metadata, and the ciphertext if the store keeps it in this database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
from sqlalchemy import select, update
from sqlalchemy.orm import InstrumentedAttribute, Session
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from barbtx.errors import Conflict, NotFound, SecretInUse
from barbtx.limits import ObjectLimits
from barbtx.model import models
from barbtx.model.models.base import FreeText
from barbtx.model.readers import TooSlow
from barbtx.model.records import NewSecret, Page, Secret, StoredPayload
from barbtx.model.repositories.acls import is_listed, touch
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.consumers import (
    SECRET_CONSUMERS,
    embedded_consumers,
    has_consumers,
)
from barbtx.model.repositories.creations import secret_values
from barbtx.model.repositories.idempotency import IdempotencyRecord, remember_key
from barbtx.model.repositories.listing import Condition, apply_conditions, count, ordering
from barbtx.model.repositories.projects import find_project, project_key, require_open
from barbtx.model.repositories.quotas import enforce_quota
from barbtx.model.repositories.rows import affected_rows
from barbtx.model.repositories.secret_counts import count_unexpired
from barbtx.model.repositories.secret_lists import SlowProjects, page_statement, read_page
from barbtx.model.repositories.secret_queries import (
    SECRET_COLUMNS,
    delete_secrets,
    find_secret,
    insert_datum,
    insert_secret,
    payload_values,
    read_listed,
    read_secret,
    secret_lookup,
    unexpired,
)
from barbtx.model.repositories.shared_creations import SECRET_CREATION
from barbtx.times import utcnow

_S = models.Secret
# Ciphertexts of more bytes are not stored together with those of other callers, who would have to wait for them.
_LARGE = 65_536
_TEXT = FreeText()

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
    _slow: SlowProjects = attrs.field(factory=SlowProjects, init=False)

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
            enforce_quota(session, project, "secrets", self.quota, partial(count_unexpired, now=now))
            insert_secret(session, project, new, now)

        if idempotency is not None or _is_large(new.payload):
            return self._interact(work)
        return Deferred.fromCoroutine(self._create_or(SECRET_CREATION, secret_values(new, now, self.quota), work))

    def get(
        self, secret_id: str, user_id: str | None = None, *, with_payload: bool = False, with_consumers: bool = False
    ) -> Deferred[Secret | None]:
        """A secret of any project, with a user's access to it, or None if it has expired.

        :param with_payload: whether to read the location of the payload, and its ciphertext.
        :param with_consumers: whether to read its consumers.
        """
        now = utcnow(self.clock)
        if not with_consumers:
            key = secret_id, _TEXT.process_bind_param(user_id, None)
            found = self.database.statements.find(
                secret_lookup(with_payload=with_payload), key, now, tables=self.tables
            )
            return found.addCallback(read_secret, with_payload=with_payload)

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
        whole_project = shared_with is None and not conditions

        def work(session: Session) -> Page[Secret]:
            project = find_project(session, project_id) if shared_with is None else None
            scope = is_listed(_S.id, shared_with) if shared_with is not None else _S.project_id == project
            query = apply_conditions(select(*SECRET_COLUMNS).where(scope, unexpired(now)), conditions, COLUMNS)
            total = count_unexpired(session, project, now) if whole_project else count(session, query, _S.id)
            if offset >= total:
                return Page((), total)
            order = ordering(session, [(COLUMNS[name], desc) for name, desc in sort], (_S.created_at, _S.id))
            rows = session.execute(
                query.join(models.Project, models.Project.id == _S.project_id)
                .order_by(*order)
                .limit(limit)
                .offset(offset)
            )
            secrets = [read_listed(row) for row in rows]
            if with_consumers:
                secrets = self._with_consumers(session, secrets)
            return Page(tuple(secrets), total)

        frequent = whole_project and not sort and not with_consumers
        statement = page_statement(limit, offset) if frequent and self.database.statements.enabled else None
        seconds = self.database.reactor.seconds
        if statement is None or self._slow.has(project_id, seconds()):
            return self._interact(work, write=False, listing=True)

        def too_slow(failure: Failure) -> Deferred[Page[Secret]] | Failure:
            slow = failure.value
            if not isinstance(slow, TooSlow):
                return failure
            if slow.own:
                self._slow.note(project_id, seconds())
            return self._interact(work, write=False, listing=True)

        values = {"project": project_id, "now": now, "limit": limit, "offset": offset}
        return self.database.statements.fetch(statement, values, tables=self.tables).addCallbacks(read_page, too_slow)

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
                .where(_S.id == secret_id, _S.content_type.is_(None), unexpired(now))
                .values(updated_at=now, **payload_values(payload))
            )
            if affected_rows(session, changed) != 1:
                secret = find_secret(session, secret_id, None, now, with_payload=True)
                if secret is None:
                    raise NotFound("Secret not found.")
                raise HasPayload(secret.payload)
            require_open(session, _S, secret_id, now)
            insert_datum(session, secret_id, payload)

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


def _is_large(payload: StoredPayload | None) -> bool:
    return payload is not None and payload.datum is not None and len(payload.datum.cypher_text) > _LARGE
