"""User metadata of secrets: keys, in lower case, and values."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import Conflict, LimitReached, NotFound
from barbtx.limits import ObjectLimits
from barbtx.model import models
from barbtx.model.models import SecretUserMetadatum as _M
from barbtx.model.repositories.acls import touch, touch_to_add
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.listing import without_nul
from barbtx.model.repositories.rows import affected_rows
from barbtx.times import utcnow


@attrs.frozen
class UserMetadataRepo(Repository):
    """The user metadata of all secrets."""

    tables = "user_metadata"

    limits: ObjectLimits = attrs.field(factory=ObjectLimits)

    def get(self, secret_id: str) -> Deferred[dict[str, str]]:
        """All of a secret's metadata."""

        def work(session: Session) -> dict[str, str]:
            rows = session.execute(select(_M.key, _M.value).where(_M.secret_id == secret_id).order_by(_M.key))
            return {row.key: row.value for row in rows}

        return self._interact(work, write=False)

    def find(self, secret_id: str, key: str) -> Deferred[str | None]:
        """The value of a key, or None if the secret does not have it."""
        return self._interact(lambda session: _find(session, secret_id, key), write=False)

    def replace(self, secret_id: str, metadata: Mapping[str, str]) -> Deferred[None]:
        """Replace all of a secret's metadata.

        :raises NotFound: the secret does not exist.
        :raises LimitReached: a secret may not have so many keys.
        :raises ProjectClosed: the secret's project was deleted in Keystone.
        """

        def work(session: Session) -> None:
            touch_to_add(session, models.Secret, secret_id, utcnow(self.clock))
            self._enforce_limit(len(metadata))
            session.execute(delete(_M).where(_M.secret_id == secret_id))
            if metadata:
                session.execute(
                    insert(_M),
                    [{"secret_id": secret_id, "key": key, "value": value} for key, value in metadata.items()],
                )

        return self._interact(work)

    def add(self, secret_id: str, key: str, value: str) -> Deferred[None]:
        """Add a key.

        :raises NotFound: the secret does not exist.
        :raises ProjectClosed: the secret's project was deleted in Keystone.
        :raises Conflict: the secret has the key already.
        :raises LimitReached: the secret may have no more keys.
        """

        def work(session: Session) -> None:
            touch_to_add(session, models.Secret, secret_id, utcnow(self.clock))
            if session.scalar(select(_M.key).where(_M.secret_id == secret_id, _M.key == key)) is not None:
                raise Conflict(f"Conflict. Key in request is already in the secret metadata: {key}")
            held = session.execute(select(func.count()).select_from(_M).where(_M.secret_id == secret_id)).scalar_one()
            self._enforce_limit(held + 1)
            session.execute(insert(_M).values(secret_id=secret_id, key=key, value=value))

        return self._interact(work)

    def _enforce_limit(self, keys: int) -> None:
        """Check the number of keys that a secret is going to have.

        :raises LimitReached: it is more than a secret may have.
        """
        if keys > self.limits.max_metadata_per_secret:
            raise LimitReached("metadata keys of one secret", self.limits.max_metadata_per_secret)

    def change(self, secret_id: str, key: str, value: str) -> Deferred[None]:
        """Change the value of a key.

        :raises NotFound: the secret does not have the key, or does not exist.
        :raises ProjectClosed: the secret's project was deleted in Keystone.
        """

        def work(session: Session) -> None:
            touch_to_add(session, models.Secret, secret_id, utcnow(self.clock))
            changed = update(_M).where(_M.secret_id == secret_id, _M.key == key).values(value=value)
            if affected_rows(session, changed) != 1:
                raise NotFound("Secret metadata not found.")

        return self._interact(work)

    def remove(self, secret_id: str, key: str) -> Deferred[None]:
        """Remove a key, if the secret has it.

        :raises NotFound: the secret does not exist.
        """

        def work(session: Session) -> None:
            touch(session, models.Secret, secret_id, utcnow(self.clock))
            if _find(session, secret_id, key) is not None:
                session.execute(delete(_M).where(_M.secret_id == secret_id, _M.key == key))

        return self._interact(work)


def _find(session: Session, secret_id: str, key: str) -> str | None:
    row = session.execute(select(_M.key, _M.value).where(_M.secret_id == secret_id, _M.key == without_nul(key))).first()
    # MariaDB ignores trailing spaces in comparisons.
    return row.value if row is not None and row.key == key else None
