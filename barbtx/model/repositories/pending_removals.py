"""Pending removals of projects: which projects are due, and which worker holds the lease.

:mod:`project_removal` has the statements of the removal itself.
"""

from __future__ import annotations

import datetime
import uuid

import attrs
from sqlalchemy import ColumnElement, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound, ServiceUnavailable
from barbtx.model.models import ProjectRemoval as _R
from barbtx.model.records import Removal, RemovalClaim
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.order_tasks import make_project_due
from barbtx.model.repositories.projects import ensure_project
from barbtx.model.repositories.rows import affected_rows, fields
from barbtx.times import utcnow

# Tolerated difference between the clocks of different machines.
_CLOCK_TOLERANCE = datetime.timedelta(seconds=60)
_COLUMNS = (
    _R.project_id,
    _R.requested_at.label("requested"),
    _R.due_at.label("due"),
    _R.kept_until,
    _R.retry_at,
    _R.attempts,
    _R.problem,
    _R.leased_until,
)


class RemovalLost(Exception):
    """The removal was cancelled, or another worker has claimed it; nothing was changed."""


class TooManyRemovals(ServiceUnavailable):
    """Too many removals wait until Keystone confirms them, so that no further one is accepted."""

    def __init__(self) -> None:
        super().__init__("Too many removals of projects wait for Keystone to confirm them.")


@attrs.frozen
class PendingRemovalRepo(Repository):
    """The pending removals.

    :ivar lease_seconds: time until a worker's lease expires unless it is renewed.
    :ivar max_attempts: failures after which a removal is not retried until an operator requests it.
    :ivar longest_wait: maximum number of seconds between two attempts.
    :ivar max_unconfirmed: maximum number of removals that wait until Keystone confirms them.
    """

    tables = "removal"

    lease_seconds: float
    max_attempts: int
    longest_wait: float
    max_unconfirmed: int

    def request(self, project_id: str) -> Deferred[Removal]:
        """Record that a project is reported as deleted in Keystone. Until Keystone confirms it, nothing else changes.

        A removal that is already recorded is retried at once.

        :param project_id: Keystone's id, at most 255 characters.
        :raises TooManyRemovals: too many removals wait until Keystone confirms them.
        """

        def work(session: Session) -> Removal:
            now = utcnow(self.clock)
            _purge(session, now)
            known = _find(session, project_id)
            if known is None:
                waiting = session.execute(select(func.count()).select_from(_R).where(_R.due_at.is_(None))).scalar_one()
                if waiting >= self.max_unconfirmed:
                    raise TooManyRemovals
                # Of two concurrent requests the second violates the primary key; it is retried and finds the row.
                session.execute(insert(_R).values(project_id=project_id, requested_at=now, retry_at=now, attempts=0))
            elif known.kept_until is None:
                _retry_now(session, known, now)
            return _read(session, project_id)

        return self._interact(work)

    def seconds_to_next(self) -> Deferred[float | None]:
        """Seconds until a removal can be claimed; None if no removal is pending."""

        def work(session: Session) -> float | None:
            now = utcnow(self.clock)
            if session.scalar(select(_R.project_id).where(self._claimable(now)).limit(1)) is not None:
                return 0.0
            free_at = case((_R.leased_until > _R.retry_at, _R.leased_until), else_=_R.retry_at)
            first = session.scalar(
                select(func.min(free_at, type_=_R.retry_at.type)).where(
                    _R.kept_until.is_(None), _R.attempts < self.max_attempts
                )
            )
            return None if first is None else max(0.0, (first - now).total_seconds())

        return self._interact(work, write=False)

    def claim(self) -> Deferred[RemovalClaim | None]:
        """Claim a removal that is due; None if there is none, or other workers have claimed them all."""
        token = str(uuid.uuid4())

        def work(session: Session) -> RemovalClaim | None:
            now = utcnow(self.clock)
            row = session.execute(
                select(*_COLUMNS)
                .where(self._claimable(now))
                .order_by(_R.retry_at)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if row is None:
                return None
            session.execute(
                update(_R).where(_R.project_id == row.project_id).values(lease=token, leased_until=self._lease_end(now))
            )
            return RemovalClaim(
                project_id=row.project_id,
                token=token,
                attempt=row.attempts + 1,
                confirmed=row.due is not None,
                age=(now - (row.due or row.requested)).total_seconds(),
            )

        return self._interact(work)

    def renew(self, claim: RemovalClaim) -> Deferred[None]:
        """Renew the lease of a removal.

        :raises RemovalLost: the removal was cancelled, or another worker has claimed it.
        """
        return self._interact(lambda session: _update(session, claim, leased_until=self._lease_end(utcnow(self.clock))))

    def confirm(self, claim: RemovalClaim, grace: float) -> Deferred[datetime.datetime]:
        """Close a project that Keystone has deleted, and schedule its removal.

        :param grace: seconds until the removal is due.
        :return: when it is due.
        :raises RemovalLost: the removal was cancelled, or another worker has claimed it.
        """

        def work(session: Session) -> datetime.datetime:
            now = utcnow(self.clock)
            due = now + datetime.timedelta(seconds=grace)
            # If the project has a row, no concurrent transaction can create it without having seen the removal.
            ensure_project(session, claim.project_id, now)
            _update(session, claim, due_at=due, retry_at=due, attempts=0, problem=None, lease=None, leased_until=None)
            return due

        return self._interact(work)

    def withdraw(self, claim: RemovalClaim) -> Deferred[None]:
        """Delete the removal of a project that exists in Keystone.

        :raises RemovalLost: the removal was cancelled, or another worker has claimed it.
        """

        def work(session: Session) -> None:
            if affected_rows(session, delete(_R).where(_is_held(claim))) != 1:
                raise RemovalLost
            make_project_due(session, claim.project_id)

        return self._interact(work)

    def reschedule(self, claim: RemovalClaim, seconds: float, problem: str | None, *, counts: bool) -> Deferred[None]:
        """End the lease of a removal and schedule a retry.

        :param seconds: time until the retry.
        :param problem: the reason, for operators.
        :param counts: whether the attempt counts towards ``max_attempts``.
        :raises RemovalLost: the removal was cancelled, or another worker has claimed it.
        """

        def work(session: Session) -> None:
            _update(
                session,
                claim,
                retry_at=utcnow(self.clock) + datetime.timedelta(seconds=seconds),
                problem=None if problem is None else problem[:255],
                attempts=claim.attempt if counts else claim.attempt - 1,
                lease=None,
                leased_until=None,
            )

        return self._interact(work)

    def _lease_end(self, now: datetime.datetime) -> datetime.datetime:
        return now + datetime.timedelta(seconds=self.lease_seconds)

    def _claimable(self, now: datetime.datetime) -> ColumnElement[bool]:
        """The condition that a removal is due and has no lease."""
        # Later leases and retries than these were written before the clock was set back.
        no_lease = self._lease_end(now) + _CLOCK_TOLERANCE
        no_retry = now + datetime.timedelta(seconds=self.longest_wait) + _CLOCK_TOLERANCE
        free = or_(_R.leased_until.is_(None), _R.leased_until <= now, _R.leased_until > no_lease)
        due = or_(_R.due_at.is_(None), _R.due_at <= now)
        return and_(
            _R.kept_until.is_(None),
            _R.attempts < self.max_attempts,
            free,
            due,
            or_(_R.retry_at <= now, _R.retry_at > no_retry),
        )


def hold(session: Session, claim: RemovalClaim) -> None:
    """Lock a removal until the transaction ends, and check that its worker still holds the lease.

    :raises RemovalLost: the removal was cancelled, or another worker has claimed it.
    """
    if session.scalar(select(_R.project_id).where(_is_held(claim)).with_for_update()) is None:
        raise RemovalLost


def finish(session: Session, claim: RemovalClaim, kept_until: datetime.datetime) -> None:
    """Record that a project is completely removed.

    :param kept_until: the project stays closed until then.
    :raises RemovalLost: the removal was cancelled, or another worker has claimed it.
    """
    _update(session, claim, kept_until=kept_until, problem=None, lease=None, leased_until=None)


def list_removals(session: Session) -> list[Removal]:
    """All removals, including finished ones that are still kept, in the order of the requests."""
    rows = session.execute(select(*_COLUMNS).order_by(_R.requested_at, _R.project_id))
    return [Removal(**fields(row, _COLUMNS)) for row in rows]


def cancel_removal(session: Session, project_id: str) -> Removal:
    """Delete a removal. The project is open again and its orders are processed; removed objects are not restored.

    :return: the removal before the call.
    :raises NotFound: there is none.
    """
    known = _require(session, project_id)
    session.execute(delete(_R).where(_R.project_id == project_id))
    make_project_due(session, project_id)
    return known


def retry_removal(session: Session, project_id: str, now: datetime.datetime) -> Removal:
    """Retry a failed or postponed removal at once, but not before it is due.

    :return: the removal before the call.
    :raises NotFound: there is none, or it is finished.
    """
    known = _require(session, project_id)
    if known.kept_until is not None:
        raise NotFound(f"project {project_id} is removed")
    _retry_now(session, known, now)
    return known


def _retry_now(session: Session, known: Removal, now: datetime.datetime) -> None:
    session.execute(
        update(_R).where(_R.project_id == known.project_id).values(attempts=0, retry_at=max(now, known.due or now))
    )


def _require(session: Session, project_id: str) -> Removal:
    known = _find(session, project_id, lock=True)
    if known is None:
        raise NotFound(f"no removal of a project {project_id} is noted")
    return known


def _find(session: Session, project_id: str, *, lock: bool = False) -> Removal | None:
    query = select(*_COLUMNS).where(_R.project_id == project_id)
    row = session.execute(query.with_for_update() if lock else query).first()
    return Removal(**fields(row, _COLUMNS)) if row else None


def _read(session: Session, project_id: str) -> Removal:
    row = session.execute(select(*_COLUMNS).where(_R.project_id == project_id)).one()
    return Removal(**fields(row, _COLUMNS))


def _is_held(claim: RemovalClaim) -> ColumnElement[bool]:
    return and_(_R.project_id == claim.project_id, _R.lease == claim.token, _R.kept_until.is_(None))


def _update(session: Session, claim: RemovalClaim, **values: object) -> None:
    if affected_rows(session, update(_R).where(_is_held(claim)).values(**values)) != 1:
        raise RemovalLost


def _purge(session: Session, now: datetime.datetime) -> None:
    """Delete finished removals of projects whose tokens can no longer be cached."""
    session.execute(delete(_R).where(_R.kept_until <= now))
