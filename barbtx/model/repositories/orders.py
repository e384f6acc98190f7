"""Orders, and the tasks that they are a promise of."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Sequence

import attrs
from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.records import (
    ACTIVE, ERROR, PENDING, EncryptedDatum, KEKMeta, Lease, Made, Order, Page, StoredPayload, Task,
)
from barbtx.model.repositories.containers import insert_container
from barbtx.model.repositories.idempotency import KeyUse, remember
from barbtx.model.repositories.keks import KEK_COLUMNS, KEKGone
from barbtx.model.repositories.listing import Condition, apply_conditions, count
from barbtx.model.repositories.projects import is_closed, project_key
from barbtx.model.repositories.quotas import count_of, enforce
from barbtx.model.repositories.secrets import insert_secret
from barbtx.times import Clock, utcnow

_O = models.Order
_T = models.OrderRetryTask
_P = models.OrderPassphrase
_COLUMNS = (
    _O.id, models.Project.external_id, _O.type, _O.meta, _O.creator_id, _O.status, _O.created_at, _O.updated_at,
    _O.sub_status, _O.sub_status_message, _O.error_status_code, _O.error_reason, _O.secret_id,
    _O.container_id,
)


# By so much the clocks of different machines may differ.
_CLOCKS_DIFFER = datetime.timedelta(seconds=60)


class LeaseLost(Exception):
    """The order was deleted, or another worker took it over; nothing was stored."""


@attrs.frozen
class OrderRepo:
    """:ivar quota: how many orders a project may have that has no quota of its own; negative is unlimited."""

    database: Database
    clock: Clock
    quota: int = -1

    def create(self, order_id: str, project_id: str, type_: str, meta: str, creator_id: str | None,
               task: Task, retry_after: float, passphrase: StoredPayload | None = None,
               use: KeyUse | None = None) -> Deferred[None]:
        """Create a PENDING order and the row of its first task, in one transaction.

        :param retry_after: seconds after which the scheduler shall publish the task again if it is still undone.
        :param passphrase: where the passphrase is kept for the task.
        :param use: as in :func:`remember`.
        :raises QuotaReached: the project may have no more.
        :raises ProjectClosed: it was deleted in Keystone.
        :raises KEKGone: the key is gone under which the passphrase was encrypted.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            project = project_key(session, project_id, now)
            remember(session, project, use, now)
            enforce(session, project, "orders", self.quota, count_of(_O))
            session.execute(insert(_O).values(
                id=order_id, project_id=project, type=type_, meta=meta,
                creator_id=creator_id, status=PENDING, created_at=now, updated_at=now,
            ))
            if passphrase is not None:
                _insert_passphrase(session, order_id, passphrase)
            session.execute(insert(_T).values(
                order_id=order_id, retry_task=task.method, retry_kwargs=json.dumps(dict(task.kwargs)),
                retry_at=now + datetime.timedelta(seconds=retry_after), retry_count=0, created_at=now,
            ))

        return self.database.interact(work)

    def get(self, order_id: str, project_id: str) -> Deferred[Order | None]:
        """An order of a project (external id)."""
        return self.database.interact(lambda session: _find(session, order_id, project_id), write=False)

    def ended_of(self, ids: Sequence[str]) -> Deferred[Sequence[str]]:
        """Those of some orders that are not PENDING any more, or gone."""
        def work(session: Session) -> Sequence[str]:
            pending = set(session.scalars(select(_O.id).where(_O.id.in_(ids), _O.status == PENDING)))
            return [order_id for order_id in ids if order_id not in pending]

        return self.database.interact(work, write=False)

    def ended_since(self, moment: datetime.datetime) -> Deferred[Sequence[str]]:
        """The orders of all projects that were changed since a moment and are not PENDING."""
        return self.database.interact(
            lambda session: session.scalars(select(_O.id).where(_O.updated_at >= moment, _O.status != PENDING)).all(),
            write=False)

    def list(self, project_id: str, meta: str | None, limit: int, offset: int) -> Deferred[Page[Order]]:
        """A page of a project's orders, oldest first.

        :param meta: text to find, as a whole key or string value, in the orders' meta; ``%`` and ``_`` are wildcards.
        """
        def work(session: Session) -> Page[Order]:
            project = session.scalar(select(models.Project.id).where(models.Project.external_id == project_id))
            query = select(*_COLUMNS).where(_O.project_id == project)
            if meta:
                query = apply_conditions(query, [Condition("meta", "like", f"%{_like_quoted(meta)}%")],
                                         {"meta": _O.meta})
            total = count(session, query, _O.id)
            if offset >= total:
                return Page((), total)
            rows = session.execute(query.join(models.Project, models.Project.id == _O.project_id)
                                   .order_by(_O.created_at, _O.id).limit(limit).offset(offset))
            return Page(tuple(Order(*row) for row in rows), total)

        return self.database.interact(work, write=False)

    def delete(self, order_id: str, project_id: str) -> Deferred[StoredPayload | None]:
        """Delete an order and what is still to be done for it; what it made stays.

        :return: where the passphrase was kept for what is not to be done now, for its store to forget.
        :raises NotFound: it is gone already.
        """
        def work(session: Session) -> StoredPayload | None:
            if _find(session, order_id, project_id) is None:
                raise NotFound("Order not found.")
            passphrase = find_passphrase(session, order_id)
            delete_orders(session, [order_id])
            return passphrase

        return self.database.interact(work)

    def claim(self, order_id: str, project_id: str, seconds: float) -> Deferred[Lease | None]:
        """Take an order in hand, unless it is done or in another's hand: then the answer is None.

        So it is while the order's project is about to be removed: if that is cancelled, the order goes on.

        :param seconds: for how long the claim holds unless it is renewed.
        :raises NotFound: there is no such order.
        """
        token = str(uuid.uuid4())

        def work(session: Session) -> Lease | None:
            order = _find(session, order_id, project_id)
            if order is None:
                raise NotFound("Order not found.")
            now = utcnow(self.clock)
            if is_closed(session, project_id, now):
                return None
            until = now + datetime.timedelta(seconds=seconds)
            # No lease ends so much later than now, unless the clock was set back since it was given.
            never = until + datetime.timedelta(seconds=seconds) + _CLOCKS_DIFFER
            free = or_(_T.leased_until.is_(None), _T.leased_until <= now, _T.leased_until > never)
            claimed = session.execute(
                update(_T).where(_T.order_id == order_id, free)
                .values(lease=token, leased_until=until, retry_at=until, retry_count=_T.retry_count + 1)
            )
            if claimed.rowcount != 1:
                return None
            attempt = session.scalar(select(_T.retry_count).where(_T.order_id == order_id))
            return Lease(order, token, attempt, find_passphrase(session, order_id))

        return self.database.interact(work)

    def renew(self, lease: Lease, seconds: float) -> Deferred[None]:
        """Hold on to an order that takes long.

        :raises LeaseLost: it is in another's hand now, or gone.
        """
        until = utcnow(self.clock) + datetime.timedelta(seconds=seconds)

        def work(session: Session) -> None:
            renewed = session.execute(_held(update(_T), lease).values(leased_until=until, retry_at=until))
            if renewed.rowcount != 1:
                raise LeaseLost

        return self.database.interact(work)

    def complete(self, lease: Lease, made: Made, sub_status: str, sub_status_message: str) -> Deferred[None]:
        """Store what an order made and turn it ACTIVE, in one transaction.

        :raises LeaseLost: nothing was stored.
        :raises ProjectClosed: the order's project was deleted in Keystone; nothing was stored.
        :raises KEKGone: the key is gone under which something was encrypted; nothing was stored.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            shown = ({"container_id": made.container.id} if made.container
                     else {"secret_id": made.secrets[0].id})
            _finish(session, lease, now, status=ACTIVE, sub_status=sub_status[:36],
                    sub_status_message=sub_status_message[:255], **shown)
            for secret in made.secrets:
                insert_secret(session, secret, now)
            if made.container:
                insert_container(session, made.container, now)

        return self.database.interact(work)

    def fail(self, lease: Lease, status_code: str, reason: str) -> Deferred[None]:
        """Turn an order to ERROR.

        :raises LeaseLost: it was not changed.
        """
        now = utcnow(self.clock)
        return self.database.interact(lambda session: _finish(
            session, lease, now, status=ERROR, error_status_code=status_code[:16], error_reason=reason[:255]))

    def retry(self, lease: Lease, method: str, seconds: float) -> Deferred[None]:
        """Let go of an order and have a task of it run later.

        :param method: the task's queue method.
        :param seconds: from now.
        :raises LeaseLost: it was not changed.
        """
        retry_at = utcnow(self.clock) + datetime.timedelta(seconds=seconds)

        def work(session: Session) -> None:
            released = session.execute(_held(update(_T), lease).values(
                lease=None, leased_until=None, retry_task=method, retry_at=retry_at))
            if released.rowcount != 1:
                raise LeaseLost

        return self.database.interact(work)

    def release(self, lease: Lease) -> Deferred[None]:
        """Let go of an order that was not worked on to the end through no fault of its own; it is due at once.

        The attempt does not count. A lease that was lost already is left alone.
        """
        now = utcnow(self.clock)
        return self.database.interact(lambda session: session.execute(_held(update(_T), lease).values(
            lease=None, leased_until=None, retry_at=now, retry_count=_T.retry_count - 1)) and None)

    def take_due(self, limit: int, republish_after: float) -> Deferred[list[Task]]:
        """The tasks that are due, oldest first, each for one caller only; they are due again later.

        A task that stays undone comes back after ever longer times, the age it has reached but at most an hour, so
        that a long queue is not filled with its own echoes.

        :param republish_after: seconds until it is due again, at least.
        """
        def work(session: Session) -> list[Task]:
            now = utcnow(self.clock)
            rows = session.execute(
                select(_T.order_id, _T.retry_task, _T.retry_kwargs, _T.created_at)
                # What was made later than now was made before the clock was set back, and would wait for too long.
                .where(or_(_T.retry_at <= now, _T.created_at > now + _CLOCKS_DIFFER))
                .order_by(_T.retry_at).limit(limit).with_for_update(skip_locked=True)
            ).all()
            for order_id, _, _, created in rows:
                wait = min(max(republish_after, (now - created).total_seconds()), max(republish_after, 3600.0))
                session.execute(update(_T).where(_T.order_id == order_id)
                                .values(retry_at=now + datetime.timedelta(seconds=wait)))
            return [Task(order_id, method, json.loads(kwargs)) for order_id, method, kwargs, _ in rows]

        return self.database.interact(work)


def delete_orders(session: Session, ids: Sequence[str]) -> None:
    """Delete orders and what is still to be done for them; what they made stays."""
    session.execute(delete(_T).where(_T.order_id.in_(ids)))
    session.execute(delete(_P).where(_P.order_id.in_(ids)))
    session.execute(delete(_O).where(_O.id.in_(ids)))


def _select():
    return select(*_COLUMNS).join(models.Project, models.Project.id == _O.project_id)


def _find(session: Session, order_id: str, project_id: str) -> Order | None:
    row = session.execute(_select().where(_O.id == order_id, models.Project.external_id == project_id)).first()
    return Order(*row) if row else None


def _insert_passphrase(session: Session, order_id: str, passphrase: StoredPayload) -> None:
    """:raises KEKGone: the key is gone under which it was encrypted."""
    try:
        session.execute(insert(_P).values(order_id=order_id, **_passphrase_columns(passphrase)))
    except IntegrityError:
        # The order was inserted a moment ago: it can only be the key.
        raise KEKGone from None


def _passphrase_columns(passphrase: StoredPayload) -> dict[str, object]:
    datum = passphrase.datum
    columns = {"store_plugin": passphrase.plugin, "store_metadata": json.dumps(dict(passphrase.metadata))}
    if datum is not None:
        columns |= {"kek_id": datum.kek.id, "cypher_text": datum.cypher_text,
                    "kek_meta_extended": datum.kek_meta_extended}
    return columns


def find_passphrase(session: Session, order_id: str) -> StoredPayload | None:
    """Where the passphrase of an order that is not done is kept, if it has one."""
    row = session.execute(
        select(_P.store_plugin, _P.store_metadata, _P.cypher_text, _P.kek_meta_extended, *KEK_COLUMNS)
        .outerjoin(models.KEK, models.KEK.id == _P.kek_id).where(_P.order_id == order_id)).first()
    if row is None:
        return None
    plugin, metadata, cypher_text, extended, *kek = row
    datum = EncryptedDatum(KEKMeta(*kek), bytes(cypher_text), extended) if cypher_text is not None else None
    return StoredPayload(plugin, "text/plain", json.loads(metadata), datum)


def _held(statement, lease: Lease):
    return statement.where(_T.order_id == lease.order.id, _T.lease == lease.token)


def _finish(session: Session, lease: Lease, now: datetime.datetime, **columns: object) -> None:
    if session.execute(_held(delete(_T), lease)).rowcount != 1:
        raise LeaseLost
    session.execute(delete(_P).where(_P.order_id == lease.order.id))
    session.execute(update(_O).where(_O.id == lease.order.id).values(updated_at=now, **columns))


def _like_quoted(text: str) -> str:
    """A text as it stands in the stored JSON, with the backslashes that LIKE would take for its own escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\\", "\\\\")
