"""Which projects are to be removed, when, and by whom; the removal itself is in ``project_removal``."""

from __future__ import annotations

import datetime
import uuid

import attrs
from sqlalchemy import ColumnElement, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound, ServiceUnavailable
from barbtx.model.database import Tables, in_tables
from barbtx.model.models import ProjectRemoval as _R
from barbtx.model.records import Removal, RemovalClaim
from barbtx.model.repositories.order_tasks import make_project_due
from barbtx.model.repositories.projects import ensure_project
from barbtx.times import Clock, utcnow

# By so much the clocks of different machines may differ.
_CLOCKS_DIFFER = datetime.timedelta(seconds=60)
_COLUMNS = (
    _R.project_id,
    _R.requested_at,
    _R.due_at,
    _R.kept_until,
    _R.retry_at,
    _R.attempts,
    _R.problem,
    _R.leased_until,
)


class RemovalLost(Exception):
    """The removal was cancelled, or another worker took it over; nothing was changed."""


class TooManyRemovals(ServiceUnavailable):
    """So many projects wait for Keystone's word that no other is taken on."""

    def __init__(self) -> None:
        super().__init__("Too many removals of projects wait for Keystone to confirm them.")


@attrs.frozen
class PendingRemovalRepo:
    """:ivar lease_seconds: for which a removal stays with a worker that gives no sign of life.
    :ivar max_attempts: how often a removal may fail before it waits for an operator.
    :ivar longest_wait: seconds between two tries, at most.
    :ivar max_unconfirmed: projects that may wait for Keystone's word.
    """

    database: Tables = attrs.field(converter=in_tables("removal"))
    clock: Clock
    lease_seconds: float
    max_attempts: int
    longest_wait: float
    max_unconfirmed: int

    def request(self, project_id: str) -> Deferred[Removal]:
        """Note that Keystone is said to have deleted a project; until that is confirmed, nothing else changes.

        For a removal that is noted already it is a reason to try again at once.

        :param project_id: Keystone's id, at most 255 characters.
        :raises TooManyRemovals: too many wait for Keystone's word.
        """

        def work(session: Session) -> Removal:
            now = utcnow(self.clock)
            _purge(session, now)
            known = _find(session, project_id)
            if known is None:
                waiting = session.scalar(select(func.count()).select_from(_R).where(_R.due_at.is_(None)))
                if waiting >= self.max_unconfirmed:
                    raise TooManyRemovals
                # Two who note the same run into the primary key; the later one runs again, and finds it.
                session.execute(insert(_R).values(project_id=project_id, requested_at=now, retry_at=now, attempts=0))
            elif known.kept_until is None:
                _again(session, known, now)
            return _find(session, project_id)

        return self.database.interact(work)

    def seconds_to_next(self) -> Deferred[float | None]:
        """How long until something can be claimed, as things stand; None if nothing waits."""

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

        return self.database.interact(work, write=False)

    def claim(self) -> Deferred[RemovalClaim | None]:
        """Take one removal in hand of which a step is due; None if there is none, or others are at it."""
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
            age = (now - (row.due_at or row.requested_at)).total_seconds()
            return RemovalClaim(row.project_id, token, row.attempts + 1, row.due_at is not None, age)

        return self.database.interact(work)

    def renew(self, claim: RemovalClaim) -> Deferred[None]:
        """Hold on to a removal that takes long.

        :raises RemovalLost: it is not the caller's any more.
        """
        return self._change(claim, lambda now: {"leased_until": self._lease_end(now)})

    def confirm(self, claim: RemovalClaim, grace: float) -> Deferred[datetime.datetime]:
        """Keystone has deleted the project: nothing can be added to it from now on, and after a while it is removed.

        :param grace: seconds.
        :return: when it is due.
        :raises RemovalLost: it is not the caller's any more.
        """

        def work(session: Session) -> datetime.datetime:
            now = utcnow(self.clock)
            due = now + datetime.timedelta(seconds=grace)
            # With a row of its own a project cannot come into being beside this, without having seen it.
            ensure_project(session, claim.project_id, now)
            _update(session, claim, due_at=due, retry_at=due, attempts=0, problem=None, lease=None, leased_until=None)
            return due

        return self.database.interact(work)

    def withdraw(self, claim: RemovalClaim) -> Deferred[None]:
        """Keystone has the project: forget that it was to be removed.

        :raises RemovalLost: it is not the caller's any more.
        """

        def work(session: Session) -> None:
            if session.execute(delete(_R).where(_held(claim))).rowcount != 1:
                raise RemovalLost
            make_project_due(session, claim.project_id)

        return self.database.interact(work)

    def reschedule(self, claim: RemovalClaim, seconds: float, problem: str | None, *, counts: bool) -> Deferred[None]:
        """Let go of a removal, to be tried again later.

        :param problem: why, for operators.
        :param counts: whether it is a failure of the removal's own; so many may be.
        :raises RemovalLost: it is not the caller's any more.
        """

        def values(now: datetime.datetime) -> dict[str, object]:
            return {
                "retry_at": now + datetime.timedelta(seconds=seconds),
                "problem": problem and problem[:255],
                "attempts": claim.attempt - (not counts),
                "lease": None,
                "leased_until": None,
            }

        return self._change(claim, values)

    def _change(self, claim: RemovalClaim, values) -> Deferred[None]:
        return self.database.interact(lambda session: _update(session, claim, **values(utcnow(self.clock))))

    def _lease_end(self, now: datetime.datetime) -> datetime.datetime:
        return now + datetime.timedelta(seconds=self.lease_seconds)

    def _claimable(self, now: datetime.datetime) -> ColumnElement[bool]:
        # No lease ends, and no retry comes, so much later than now, unless the clock was set back since it was written.
        no_lease = self._lease_end(now) + _CLOCKS_DIFFER
        no_retry = now + datetime.timedelta(seconds=self.longest_wait) + _CLOCKS_DIFFER
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
    """Make sure that a removal is its worker's until the transaction ends.

    :raises RemovalLost: it was cancelled, or another worker has it.
    """
    if session.scalar(select(_R.project_id).where(_held(claim)).with_for_update()) is None:
        raise RemovalLost


def finish(session: Session, claim: RemovalClaim, kept_until: datetime.datetime) -> None:
    """Note that everything is removed.

    :param kept_until: until when nothing can be added all the same.
    :raises RemovalLost: it was cancelled, or another worker has it.
    """
    _update(session, claim, kept_until=kept_until, problem=None, lease=None, leased_until=None)


def list_removals(session: Session) -> list[Removal]:
    """All removals, those that are done too as long as they are kept, in the order in which they were noted."""
    return [Removal(*row) for row in session.execute(select(*_COLUMNS).order_by(_R.requested_at, _R.project_id))]


def cancel_removal(session: Session, project_id: str) -> Removal:
    """Forget a removal, so that the project can be added to and its orders go on; what is removed already stays so.

    :return: how it was.
    :raises NotFound: there is none.
    """
    known = _require(session, project_id)
    session.execute(delete(_R).where(_R.project_id == project_id))
    make_project_due(session, project_id)
    return known


def retry_removal(session: Session, project_id: str, now: datetime.datetime) -> Removal:
    """Have a removal that failed, or waits for another try, tried at once; a removal is not due earlier for that.

    :return: how it was.
    :raises NotFound: there is none that is not done.
    """
    known = _require(session, project_id)
    if known.kept_until is not None:
        raise NotFound(f"project {project_id} is removed")
    _again(session, known, now)
    return known


def _again(session: Session, known: Removal, now: datetime.datetime) -> None:
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
    return Removal(*row) if row else None


def _held(claim: RemovalClaim) -> ColumnElement[bool]:
    return and_(_R.project_id == claim.project_id, _R.lease == claim.token, _R.kept_until.is_(None))


def _update(session: Session, claim: RemovalClaim, **values: object) -> None:
    if session.execute(update(_R).where(_held(claim)).values(**values)).rowcount != 1:
        raise RemovalLost


def _purge(session: Session, now: datetime.datetime) -> None:
    """Forget removals that were done so long ago that no token can be remembered any more."""
    session.execute(delete(_R).where(_R.kept_until <= now))
