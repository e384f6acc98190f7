"""Orders, and the tasks that they are a promise of."""

from __future__ import annotations

import contextlib
import datetime
import json
import uuid
from collections.abc import Callable, Sequence

import attrs
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound
from barbtx.model import models
from barbtx.model.database import Tables, in_tables
from barbtx.model.records import (
    ACTIVE,
    ASYMMETRIC,
    ERROR,
    PENDING,
    EncryptedDatum,
    GeneratedObjects,
    KEKMeta,
    Lease,
    Order,
    Page,
    StoredPayload,
    Task,
    lane_of,
)
from barbtx.model.repositories import order_tasks
from barbtx.model.repositories.containers import insert_container
from barbtx.model.repositories.idempotency import IdempotencyRecord, forget_keys, remember
from barbtx.model.repositories.keks import KEK_COLUMNS, KEKGone
from barbtx.model.repositories.listing import Condition, apply_conditions, count
from barbtx.model.repositories.order_tasks import LeaseLost, WrongLane
from barbtx.model.repositories.projects import project_key
from barbtx.model.repositories.quotas import count_of, enforce
from barbtx.model.repositories.secrets import insert_secret
from barbtx.times import Clock, utcnow

_O = models.Order
_T = models.OrderRetryTask
_P = models.OrderPassphrase
_COLUMNS = (
    _O.id,
    models.Project.external_id,
    _O.type,
    _O.meta,
    _O.creator_id,
    _O.status,
    _O.created_at,
    _O.updated_at,
    _O.sub_status,
    _O.sub_status_message,
    _O.error_status_code,
    _O.error_reason,
    _O.secret_id,
    _O.container_id,
)


@attrs.define(eq=False)
class Claim:
    """An attempt to take an order in hand, which can be repeated if its outcome is unknown.

    :ivar taken: id of the order that was taken, if the transaction was committed.
    """

    token: str = attrs.field(factory=lambda: str(uuid.uuid4()), init=False)
    taken: str | None = attrs.field(default=None, init=False)


@attrs.frozen
class OrderRepo:
    """:ivar clock: what orders are stamped with.
    :ivar quota: how many orders a project may have that has no quota of its own; negative is unlimited.
    :ivar task_time: the time by which tasks wait and leases end, in a transaction; the clock's if it is None. Processes
        on different machines must agree on it.
    """

    database: Tables = attrs.field(converter=in_tables("orders"))
    clock: Clock
    quota: int = -1
    task_time: Callable[[Session], datetime.datetime] | None = None

    def _now(self, session: Session) -> datetime.datetime:
        return utcnow(self.clock) if self.task_time is None else self.task_time(session)

    def create(
        self,
        order_id: str,
        project_id: str,
        type_: str,
        meta: str,
        creator_id: str | None,
        task: Task,
        retry_after: float,
        passphrase: StoredPayload | None = None,
        use: IdempotencyRecord | None = None,
    ) -> Deferred[None]:
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
            session.execute(
                insert(_O).values(
                    id=order_id,
                    project_id=project,
                    type=type_,
                    meta=meta,
                    creator_id=creator_id,
                    status=PENDING,
                    created_at=now,
                    updated_at=now,
                )
            )
            if passphrase is not None:
                _insert_passphrase(session, order_id, passphrase)
            order_tasks.insert_task(session, project, type_, task, self._now(session), retry_after)

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
            write=False,
        )

    def list_page(self, project_id: str, meta: str | None, limit: int, offset: int) -> Deferred[Page[Order]]:
        """A page of a project's orders, oldest first.

        :param meta: text to find, as a whole key or string value, in the orders' meta; ``%`` and ``_`` are wildcards.
        """

        def work(session: Session) -> Page[Order]:
            project = session.scalar(select(models.Project.id).where(models.Project.external_id == project_id))
            query = select(*_COLUMNS).where(_O.project_id == project)
            if meta:
                pattern = f"%{json.dumps(meta, ensure_ascii=False)}%"
                query = apply_conditions(query, [Condition("meta", "like", pattern)], {"meta": _O.meta})
            total = count(session, query, _O.id)
            if offset >= total:
                return Page((), total)
            rows = session.execute(
                query.join(models.Project, models.Project.id == _O.project_id)
                .order_by(_O.created_at, _O.id)
                .limit(limit)
                .offset(offset)
            )
            return Page(tuple(Order(*row) for row in rows), total)

        return self.database.interact(work, write=False, listing=True)

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

    def claim(
        self, order_id: str, project_id: str, seconds: float, claim: Claim | None = None
    ) -> Deferred[Lease | None]:
        """Take an order in hand, unless it is done or in another's hand: then the answer is None.

        So it is while the order's project is about to be removed: if that is cancelled, the order goes on.

        :param seconds: for how long the claim holds unless it is renewed.
        :param claim: the same one as before if this is repeated.
        :raises NotFound: there is no such order.
        """
        claim = claim or Claim()

        def work(session: Session) -> Lease | None:
            now = self._now(session)
            if lease := _taken_before(session, claim, now, seconds):
                return lease
            order = _find(session, order_id, project_id)
            if order is None:
                raise NotFound("Order not found.")
            return _taken(session, order_id, claim, now, seconds)

        return self.database.interact(work)

    def claim_next(
        self,
        lane: str,
        after: str,
        seconds: float,
        order_id: str | None = None,
        project_id: str | None = None,
        claim: Claim | None = None,
    ) -> Deferred[Lease | None]:
        """Take the order in hand whose turn it is, or none if nothing waits.

        The projects that have orders waiting in a lane take turns, so that none waits for all orders of another. Whoever
        was sent for an order takes one such order for it, so that all are taken in the end; but an order that does not
        wait for its turn (it is tried again before its time, or its row is of the release before) is taken itself.

        :param after: internal id of the project whose turn it was last.
        :param seconds: for how long the claim holds unless it is renewed.
        :param order_id: the order that the caller was sent for, if it was sent.
        :param project_id: external id.
        :param claim: the same one as before if this is repeated.
        :raises OtherLane: that order is to be done in another lane.
        :raises NotFound: there is no such order, and nothing waits.
        """
        claim = claim or Claim()

        def work(session: Session) -> Lease | None:
            now = self._now(session)
            if lease := _taken_before(session, claim, now, seconds):
                return lease
            named = None
            if order_id is not None:
                named = session.execute(
                    select(_O.type, _T.order_id, _T.waits_in)
                    .join(models.Project, models.Project.id == _O.project_id)
                    .outerjoin(_T, _T.order_id == _O.id)
                    .where(_O.id == order_id, models.Project.external_id == project_id)
                ).first()
            if named is not None and named.order_id is not None:
                if lane_of(named.type) != lane:
                    raise WrongLane(lane_of(named.type))
                if named.waits_in is None and (lease := _taken(session, order_id, claim, now, seconds)):
                    return lease
            while (waiting := order_tasks.next_waiting(session, lane, after, now, seconds)) is not None:
                if lease := _taken(session, waiting, claim, now, seconds):
                    return lease
            if order_id is not None and named is None:
                raise NotFound("Order not found.")
            return None

        return self.database.interact(work)

    def renew(self, lease: Lease, seconds: float) -> Deferred[None]:
        """Hold on to an order that takes long.

        :raises LeaseLost: it is in another's hand now, or gone.
        """
        return self.database.interact(lambda session: order_tasks.renew(session, lease, self._now(session), seconds))

    def complete(
        self, lease: Lease, made: GeneratedObjects, sub_status: str, sub_status_message: str
    ) -> Deferred[None]:
        """Store what an order made and turn it ACTIVE, in one transaction.

        It may be repeated if its outcome is unknown: what was stored already stays as it is.

        :raises LeaseLost: nothing was stored.
        :raises ProjectClosed: the order's project was deleted in Keystone; nothing was stored.
        :raises KEKGone: the key is gone under which something was encrypted; nothing was stored.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            shown = {"container_id": made.container.id} if made.container else {"secret_id": made.secrets[0].id}
            try:
                _finish(
                    session,
                    lease,
                    now,
                    status=ACTIVE,
                    sub_status=sub_status[:36],
                    sub_status_message=sub_status_message[:255],
                    **shown,
                )
            except LeaseLost:
                # Its owner may have deleted some of them since they were stored.
                ids = [secret.id for secret in made.secrets]
                if session.scalar(select(models.Secret.id).where(models.Secret.id.in_(ids)).limit(1)) is None:
                    raise
                return
            for secret in made.secrets:
                insert_secret(session, secret, now)
            if made.container:
                insert_container(session, made.container, now)

        return self.database.interact(work)

    def fail(self, lease: Lease, status_code: str, reason: str) -> Deferred[None]:
        """Turn an order to ERROR. It may be repeated if its outcome is unknown.

        :raises LeaseLost: it was not changed, and is not ERROR.
        """
        now = utcnow(self.clock)

        def work(session: Session) -> None:
            try:
                _finish(
                    session, lease, now, status=ERROR, error_status_code=status_code[:16], error_reason=reason[:255]
                )
            except LeaseLost:
                if session.scalar(select(_O.status).where(_O.id == lease.order.id)) != ERROR:
                    raise

        return self.database.interact(work)

    def retry(self, lease: Lease, method: str, seconds: float, *, counts: bool = True) -> Deferred[None]:
        """Let go of an order and have a task of it run later.

        :param method: the task's queue method.
        :param seconds: from now; an hour at most.
        :param counts: whether this was an attempt, of which an order has only so many.
        :raises LeaseLost: it was not changed.
        """
        return self.database.interact(
            lambda session: order_tasks.reschedule(session, lease, method, self._now(session), seconds, counts)
        )

    def release(self, lease: Lease) -> Deferred[None]:
        """Let go of an order that was not worked on to the end through no fault of its own; it is due at once.

        The attempt does not count. A lease that was lost already is left alone.
        """

        def work(session: Session) -> None:
            with contextlib.suppress(LeaseLost):
                order_tasks.release(session, lease, self._now(session))

        return self.database.interact(work)

    def take_due(self, limit: int, republish_after: float, seen: set[str] | None = None) -> Deferred[list[Task]]:
        """The tasks that are due, oldest first, each for one caller only; they are due again later.

        A task that stays undone comes back after ever longer times, the age it has reached but at most an hour, so
        that a long queue is not filled with its own echoes.

        :param republish_after: seconds until it is due again, at least.
        :param seen: gets the ids of the orders, for the caller to make them due again if the outcome is unknown.
        """

        def work(session: Session) -> list[Task]:
            tasks = order_tasks.take_due(session, self._now(session), limit, republish_after)
            if seen is not None:
                seen.update(task.order_id for task in tasks)
            return tasks

        return self.database.interact(work)

    def make_due(self, ids: Sequence[str], seconds: float) -> Deferred[None]:
        """Have tasks that were taken as due, but could not be published, become due again.

        :param seconds: from now.
        """
        return self.database.interact(lambda session: order_tasks.make_due(session, ids, self._now(session), seconds))


def delete_orders(session: Session, ids: Sequence[str]) -> None:
    """Delete orders and what is still to be done for them; what they made stays."""
    forget_keys(session, ids)
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
        columns |= {
            "kek_id": datum.kek.id,
            "cypher_text": datum.cypher_text,
            "kek_meta_extended": datum.kek_meta_extended,
        }
    return columns


def find_passphrase(session: Session, order_id: str) -> StoredPayload | None:
    """Where the passphrase of an order that is not done is kept, if it has one."""
    row = session.execute(
        select(_P.store_plugin, _P.store_metadata, _P.cypher_text, _P.kek_meta_extended, *KEK_COLUMNS)
        .outerjoin(models.KEK, models.KEK.id == _P.kek_id)
        .where(_P.order_id == order_id)
    ).first()
    if row is None:
        return None
    plugin, metadata, cypher_text, extended, *kek = row
    datum = EncryptedDatum(KEKMeta(*kek), bytes(cypher_text), extended) if cypher_text is not None else None
    return StoredPayload(plugin, "text/plain", json.loads(metadata), datum)


def _taken(session: Session, order_id: str, claim: Claim, now: datetime.datetime, seconds: float) -> Lease | None:
    """The lease on an order, or None if it is done or in another's hand."""
    if not order_tasks.take(session, order_id, claim.token, now, seconds):
        return None
    # Whoever repeats the claim must know it although this transaction has no outcome yet.
    claim.taken = order_id
    return _lease(session, order_id, claim.token)


def _taken_before(session: Session, claim: Claim, now: datetime.datetime, seconds: float) -> Lease | None:
    """The lease that an earlier transaction of a claim has got after all."""
    if claim.taken is None or not order_tasks.took(session, claim.taken, claim.token, now, seconds):
        return None
    return _lease(session, claim.taken, claim.token)


def _lease(session: Session, order_id: str, token: str) -> Lease:
    order = Order(*session.execute(_select().where(_O.id == order_id)).one())
    passphrase = find_passphrase(session, order_id) if lane_of(order.type) == ASYMMETRIC else None
    return order_tasks.read_lease(session, order, token, passphrase)


def _finish(session: Session, lease: Lease, now: datetime.datetime, **columns: object) -> None:
    order_tasks.finish(session, lease)
    session.execute(delete(_P).where(_P.order_id == lease.order.id))
    session.execute(update(_O).where(_O.id == lease.order.id).values(updated_at=now, **columns))
