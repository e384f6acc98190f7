"""How many secrets a project has, without counting them one by one.

On PostgreSQL, triggers maintain the number of secrets by the day on which they expire, see
:class:`barbtx.model.models.SecretCount`. Only those that expire on the present day are counted. On other databases, an
index alone answers the question.
"""

from __future__ import annotations

import datetime
from functools import lru_cache, partial
from typing import Any, TypeAlias

import attrs
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Date,
    Integer,
    bindparam,
    cast,
    delete,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.model.models import Project, Secret
from barbtx.model.models import SecretCount as _N
from barbtx.model.models import SecretCountChange as _C
from barbtx.model.repositories.base import Repository
from barbtx.model.repositories.rows import AnySelect

_Text: TypeAlias = ColumnElement[str] | Any


@attrs.frozen
class SecretCountRepo(Repository):
    """The counts of secrets on PostgreSQL."""

    tables = "secret counts"

    @property
    def maintained(self) -> bool:
        """Whether this database has counts."""
        return self.database.engine.dialect.name == "postgresql"

    def fold(self, limit: int) -> Deferred[int]:
        """Add changes to the counts. Whoever reads both sees the same sum before and after.

        Any number of processes may do so at the same time.

        :param limit: maximum number of changes.
        :return: how many changes there were.
        """
        return self._interact(partial(_fold, limit=limit))


def _fold(session: Session, limit: int) -> int:
    rows = session.execute(_folding(), {"limit": limit}).all()
    empty = [(row.project_id, row.expires_on) for row in rows if row.project_id is not None]
    if empty:
        session.execute(delete(_N).where(tuple_(_N.project_id, _N.expires_on).in_(empty)))
    changes: int = rows[0].changes
    return changes


@lru_cache
def _folding() -> AnySelect:
    """The statement that folds changes. It returns how many there were, and the counts that are zero now, if any."""
    some = select(_C.id).order_by(_C.id).limit(bindparam("limit", type_=Integer)).with_for_update(skip_locked=True)
    changes = delete(_C).where(_C.id.in_(some)).returning(_C.project_id, _C.expires_on, _C.secrets).cte("changes")
    total = func.sum(changes.c.secrets)
    sums = (
        select(changes.c.project_id, changes.c.expires_on, cast(total, BigInteger))
        .join(Project, Project.id == changes.c.project_id)
        .group_by(changes.c.project_id, changes.c.expires_on)
        .having(total != 0)
        # Concurrent calls thus lock rows in the same order.
        .order_by(changes.c.project_id, changes.c.expires_on)
    )
    new = insert(_N).from_select(["project_id", "expires_on", "secrets"], sums)
    counts = (
        new.on_conflict_do_update(
            index_elements=[_N.project_id, _N.expires_on], set_={"secrets": _N.secrets + new.excluded.secrets}
        )
        .returning(_N.project_id, _N.expires_on, _N.secrets)
        .cte("counts")
    )
    number = select(func.count().label("changes")).select_from(changes).subquery("number")
    return select(number.c.changes, counts.c.project_id, counts.c.expires_on).select_from(
        number.outerjoin(counts, counts.c.secrets == 0)
    )


def count_unexpired(session: Session, project: str | None, now: datetime.datetime) -> int:
    """How many secrets of a project have not expired.

    :param project: primary key.
    """
    key, time = literal(project, Secret.project_id.type), literal(now, Secret.expiration.type)
    if session.get_bind().dialect.name == "postgresql":
        return session.scalars(select(maintained_count(key, time))).one()
    of_project = select(func.count()).select_from(Secret).where(Secret.project_id == key)
    # Two ranges of the index; as one condition, they would be a search through all entries of the project.
    parts = [of_project.where(Secret.expiration.is_(None)), of_project.where(Secret.expiration > time)]
    return session.scalars(select(parts[0].scalar_subquery() + parts[1].scalar_subquery())).one()


def maintained_count(project: _Text, now: ColumnElement[datetime.datetime]) -> ColumnElement[int]:
    """The expression on PostgreSQL for what :func:`count_unexpired` returns."""
    today = cast(now, Date)
    later = [
        select(func.coalesce(func.sum(kind.secrets), literal_column("0")))
        .where(kind.project_id == project, kind.expires_on > today)
        .scalar_subquery()
        for kind in (_N, _C)
    ]
    on_this_day = (
        select(func.count())
        .select_from(Secret)
        .where(Secret.project_id == project, Secret.expiration > now, Secret.expiration < today + literal_column("1"))
        .scalar_subquery()
    )
    return cast(later[0] + later[1] + on_this_day, BigInteger)
