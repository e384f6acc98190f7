"""How workers claim orders: one that they name, or the next one of a lane. Functions of a session."""

from __future__ import annotations

import datetime
import uuid

import attrs
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from barbtx.errors import NotFound
from barbtx.model import models
from barbtx.model.records import ASYMMETRIC, Lease, lane_of
from barbtx.model.repositories import order_tasks
from barbtx.model.repositories.order_passphrases import find_passphrase
from barbtx.model.repositories.order_queries import find_order, read_order
from barbtx.model.repositories.order_tasks import WrongLane

_O = models.Order
_T = models.OrderRetryTask


@attrs.define(eq=False)
class Claim:
    """An attempt to claim an order, which can be retried if its outcome is unknown.

    :ivar token: identifies the lease that the attempt takes.
    :ivar taken: id of the order that the attempt has claimed, if its transaction was committed.
    :ivar may_be_taken: whether the attempt may have claimed an order whose id is not known.
    """

    token: str = attrs.field(factory=lambda: str(uuid.uuid4()), init=False)
    taken: str | None = attrs.field(default=None, init=False)
    may_be_taken: bool = attrs.field(default=False, init=False)

    @property
    def is_retry(self) -> bool:
        """Whether an earlier attempt may have claimed an order."""
        return self.taken is not None or self.may_be_taken


def claim_order(
    session: Session, claim: Claim, order_id: str, project_id: str, now: datetime.datetime, seconds: float
) -> Lease | None:
    """Claim one order; see :meth:`OrderRepo.claim`."""
    if lease := _confirm(session, claim, now, seconds):
        return lease
    if find_order(session, order_id, project_id) is None:
        raise NotFound("Order not found.")
    return _take(session, order_id, claim, now, seconds)


def claim_next_order(
    session: Session,
    claim: Claim,
    lane: str,
    after: str,
    order_id: str | None,
    project_id: str | None,
    now: datetime.datetime,
    seconds: float,
) -> Lease | None:
    """Claim the next order of a lane; see :meth:`OrderRepo.claim_next`."""
    if lease := _confirm(session, claim, now, seconds):
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
        if named.waits_in is None and (lease := _take(session, named.order_id, claim, now, seconds)):
            return lease
    while (waiting := order_tasks.next_waiting(session, lane, after, now, seconds)) is not None:
        if lease := _take(session, waiting, claim, now, seconds):
            return lease
    if order_id is not None and named is None:
        raise NotFound("Order not found.")
    return None


def _take(session: Session, order_id: str, claim: Claim, now: datetime.datetime, seconds: float) -> Lease | None:
    """Claim an order; None if it is finished or another worker holds its lease."""
    if not order_tasks.take_lease(session, order_id, claim.token, now, seconds):
        return None
    # A retry of the claim must know the order even if the outcome of this transaction stays unknown.
    claim.taken = order_id
    return _read_lease(session, order_id, claim.token)


def _confirm(session: Session, claim: Claim, now: datetime.datetime, seconds: float) -> Lease | None:
    """The lease that an earlier attempt has taken, if its transaction was committed after all."""
    if claim.may_be_taken:
        # The transaction that may have taken it, by a claim statement, may still be committing.
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(claim.token, 0))))
        claim.taken = session.scalar(select(_T.order_id).where(_T.lease == claim.token))
    if claim.taken is None or not order_tasks.confirm_lease(session, claim.taken, claim.token, now, seconds):
        return None
    return _read_lease(session, claim.taken, claim.token)


def _read_lease(session: Session, order_id: str, token: str) -> Lease:
    order = read_order(session, order_id)
    passphrase = find_passphrase(session, order_id) if lane_of(order.type) == ASYMMETRIC else None
    return order_tasks.read_lease(session, order, token, passphrase)
