"""Transport keys: of the whole deployment."""

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
from barbtx.model.database import Tables, in_tables
from barbtx.model.records import ACTIVE, Page, TransportKey
from barbtx.model.repositories.listing import without_nul
from barbtx.model.repositories.projects import find_or_create
from barbtx.times import Clock, utcnow

_K = models.TransportKey
_COLUMNS = (_K.id, _K.plugin_name, _K.transport_key, _K.status, _K.created_at, _K.updated_at)


@attrs.frozen
class TransportKeyRepo:
    database: Tables = attrs.field(converter=in_tables("transport_keys"))
    clock: Clock

    def create(self, plugin_name: str, transport_key: str) -> Deferred[str]:
        """Add a key; its id."""
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

        return self.database.interact(work)

    def get(self, key_id: str) -> Deferred[TransportKey | None]:
        """A key by its id."""

        def work(session: Session) -> TransportKey | None:
            row = session.execute(select(*_COLUMNS).where(_K.id == key_id)).first()
            return TransportKey(*row) if row else None

        return self.database.interact(work, write=False)

    def publish(
        self, plugin_name: str, transport_key: str, race_hook: Callable[[], None] = lambda: None
    ) -> Deferred[str]:
        """The id of a store's key, which is added if it is not there yet; the same one for everybody.

        :param race_hook: as in :func:`find_or_create`.
        """
        now = utcnow(self.clock)
        digest = hashlib.sha256(json.dumps([plugin_name, transport_key]).encode()).hexdigest()

        def work(session: Session) -> str:
            def create() -> None:
                # An administrator may have added it.
                same = session.scalar(
                    select(_K.id)
                    .where(_K.plugin_name == plugin_name, _K.transport_key == transport_key)
                    .order_by(_K.created_at, _K.id)
                    .limit(1)
                )
                if same is not None:
                    session.execute(update(_K).where(_K.id == same).values(digest=digest))
                else:
                    session.execute(
                        insert(_K).values(
                            id=str(uuid.uuid4()),
                            plugin_name=plugin_name,
                            transport_key=transport_key,
                            digest=digest,
                            status=ACTIVE,
                            created_at=now,
                            updated_at=now,
                        )
                    )

            return find_or_create(
                session, lambda: session.scalar(select(_K.id).where(_K.digest == digest)), create, race_hook
            )

        return self.database.interact(work)

    def list_page(self, plugin_name: str | None, limit: int, offset: int) -> Deferred[Page[str]]:
        """A page of the keys' ids, of one store or of all, oldest first."""

        def work(session: Session) -> Page[str]:
            query = select(_K.id)
            if plugin_name:
                query = query.where(_K.plugin_name == without_nul(plugin_name))
            total = session.scalar(select(func.count()).select_from(query.subquery()))
            rows = session.scalars(query.order_by(_K.created_at, _K.id).limit(limit).offset(min(offset, total)))
            return Page(tuple(rows), total)

        return self.database.interact(work, write=False, listing=True)

    def delete(self, key_id: str) -> Deferred[None]:
        """Delete a key.

        :raises NotFound: it is gone already.
        """

        def work(session: Session) -> None:
            if session.execute(delete(_K).where(_K.id == key_id)).rowcount != 1:
                raise NotFound("Transport key not found.")

        return self.database.interact(work)
