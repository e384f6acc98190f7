"""Transport keys, which belong to the whole deployment."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable

import attrs
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound
from barbtx.model import models
from barbtx.model.records import ACTIVE, Page, TransportKey
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.listing import without_nul
from barbtx.model.repositories.projects import find_or_create
from barbtx.model.repositories.rows import affected_rows, fields
from barbtx.times import utcnow

_K = models.TransportKey
_COLUMNS = (
    _K.id,
    _K.plugin_name,
    _K.transport_key,
    _K.status,
    _K.created_at.label("created"),
    _K.updated_at.label("updated"),
)


@attrs.frozen
class TransportKeyRepo(Repository):
    """The transport keys of all secret stores."""

    tables = "transport_keys"

    def create(self, plugin_name: str, transport_key: str) -> Deferred[str]:
        """Add a key.

        :return: its id.
        """
        now = utcnow(self.clock)
        key_id = str(uuid.uuid4())

        def work(session: Session) -> str:
            session.execute(
                insert(_K).values(
                    id=key_id,
                    plugin_name=plugin_name,
                    transport_key=transport_key,
                    status=ACTIVE,
                    created_at=now,
                    updated_at=now,
                )
            )
            return key_id

        return self._interact(work)

    def get(self, key_id: str) -> Deferred[TransportKey | None]:
        """A key by its id, or None."""

        def work(session: Session) -> TransportKey | None:
            row = session.execute(select(*_COLUMNS).where(_K.id == key_id)).first()
            return TransportKey(**fields(row, _COLUMNS)) if row else None

        return self._interact(work, write=False)

    def publish(
        self, plugin_name: str, transport_key: str, race_hook: Callable[[], None] = lambda: None
    ) -> Deferred[str]:
        """Add a store's key unless it is there already.

        :param race_hook: see :func:`find_or_create`.
        :return: the key's id, which is the same for every process.
        """
        now = utcnow(self.clock)
        digest = hashlib.sha256(json.dumps([plugin_name, transport_key]).encode()).hexdigest()

        def work(session: Session) -> str:
            def find() -> str | None:
                return session.scalar(select(_K.id).where(_K.digest == digest))

            def create() -> str:
                # An administrator may have added the key without its digest.
                same = session.scalar(
                    select(_K.id)
                    .where(_K.plugin_name == plugin_name, _K.transport_key == transport_key)
                    .order_by(_K.created_at, _K.id)
                    .limit(1)
                )
                if same is not None:
                    session.execute(update(_K).where(_K.id == same).values(digest=digest))
                    return same
                key_id = str(uuid.uuid4())
                session.execute(
                    insert(_K).values(
                        id=key_id,
                        plugin_name=plugin_name,
                        transport_key=transport_key,
                        digest=digest,
                        status=ACTIVE,
                        created_at=now,
                        updated_at=now,
                    )
                )
                return key_id

            return find_or_create(session, find, create, race_hook)

        return self._interact(work)

    def list_page(self, plugin_name: str | None, limit: int, offset: int) -> Deferred[Page[str]]:
        """A page of the keys' ids, oldest first.

        :param plugin_name: full class name of the store whose keys are listed; all keys if it is None or empty.
        """

        def work(session: Session) -> Page[str]:
            query = select(_K.id)
            if plugin_name:
                query = query.where(_K.plugin_name == without_nul(plugin_name))
            total = session.execute(select(func.count()).select_from(query.subquery())).scalar_one()
            rows = session.scalars(query.order_by(_K.created_at, _K.id).limit(limit).offset(min(offset, total)))
            return Page(tuple(rows), total)

        return self._interact(work, write=False, listing=True)

    def delete(self, key_id: str) -> Deferred[None]:
        """Delete a key.

        :raises NotFound: it does not exist.
        """

        def work(session: Session) -> None:
            if affected_rows(session, delete(_K).where(_K.id == key_id)) != 1:
                raise NotFound("Transport key not found.")

        return self._interact(work)
