"""What users note down about their secrets: keys, in lower case, and values."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import Conflict, NotFound
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.models import SecretUserMetadatum as _M
from barbtx.model.repositories.acls import touch, touch_to_add
from barbtx.times import Clock, utcnow


@attrs.frozen
class UserMetadataRepo:
    database: Database
    clock: Clock

    def get(self, secret_id: str) -> Deferred[dict[str, str]]:
        """All of a secret's metadata."""
        return self.database.interact(
            lambda session: {key: value for key, value in session.execute(
                select(_M.key, _M.value).where(_M.secret_id == secret_id).order_by(_M.key))},
            write=False)

    def replace(self, secret_id: str, metadata: Mapping[str, str]) -> Deferred[None]:
        """Set all of a secret's metadata.

        :raises NotFound: the secret is gone.
        :raises ProjectClosed: its project was deleted in Keystone.
        """
        def work(session: Session) -> None:
            touch_to_add(session, models.Secret, secret_id, utcnow(self.clock))
            session.execute(delete(_M).where(_M.secret_id == secret_id))
            if metadata:
                session.execute(insert(_M), [{"secret_id": secret_id, "key": key, "value": value}
                                             for key, value in metadata.items()])

        return self.database.interact(work)

    def add(self, secret_id: str, key: str, value: str) -> Deferred[None]:
        """Add one key.

        :raises NotFound: the secret is gone.
        :raises ProjectClosed: its project was deleted in Keystone.
        :raises Conflict: the key is there.
        """
        def work(session: Session) -> None:
            touch_to_add(session, models.Secret, secret_id, utcnow(self.clock))
            if session.scalar(select(_M.key).where(_M.secret_id == secret_id, _M.key == key)) is not None:
                raise Conflict(f"Conflict. Key in request is already in the secret metadata: {key}")
            session.execute(insert(_M).values(secret_id=secret_id, key=key, value=value))

        return self.database.interact(work)

    def change(self, secret_id: str, key: str, value: str) -> Deferred[None]:
        """Change one key's value.

        :raises NotFound: the key is gone.
        :raises ProjectClosed: the secret's project was deleted in Keystone.
        """
        def work(session: Session) -> None:
            touch_to_add(session, models.Secret, secret_id, utcnow(self.clock))
            changed = session.execute(update(_M).where(_M.secret_id == secret_id, _M.key == key).values(value=value))
            if changed.rowcount != 1:
                raise NotFound("Secret metadata not found.")

        return self.database.interact(work)

    def remove(self, secret_id: str, key: str) -> Deferred[None]:
        """Remove one key; one that is not there is no error.

        :raises NotFound: the secret is gone.
        """
        def work(session: Session) -> None:
            touch(session, models.Secret, secret_id, utcnow(self.clock))
            session.execute(delete(_M).where(_M.secret_id == secret_id, _M.key == key))

        return self.database.interact(work)
