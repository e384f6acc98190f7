"""The passphrases of pending orders, encrypted as payloads are. Functions of a session."""

from __future__ import annotations

import json

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from barbtx.model import models
from barbtx.model.records import StoredPayload
from barbtx.model.repositories.keks import KEK_COLUMNS, KEKGone
from barbtx.model.repositories.secret_queries import stored_payload

_P = models.OrderPassphrase


def insert_passphrase(session: Session, order_id: str, passphrase: StoredPayload) -> None:
    """Store the passphrase of an order that was inserted in the same transaction.

    :raises KEKGone: the project key that encrypted it no longer exists.
    """
    datum = passphrase.datum
    try:
        session.execute(
            insert(_P).values(
                order_id=order_id,
                store_plugin=passphrase.plugin,
                store_metadata=json.dumps(dict(passphrase.metadata)),
                kek_id=datum.kek.id if datum else None,
                cypher_text=datum.cypher_text if datum else None,
                kek_meta_extended=datum.kek_meta_extended if datum else None,
            )
        )
    except IntegrityError:
        # The order exists, so that the violated foreign key is that of the project key.
        raise KEKGone from None


def find_passphrase(session: Session, order_id: str) -> StoredPayload | None:
    """The passphrase of a pending order, or None if it has none."""
    row = session.execute(
        select(_P.store_plugin, _P.store_metadata, _P.cypher_text, _P.kek_meta_extended, *KEK_COLUMNS)
        .outerjoin(models.KEK, models.KEK.id == _P.kek_id)
        .where(_P.order_id == order_id)
    ).first()
    return stored_payload(row, "text/plain") if row else None
