"""How many secrets a project has, without counting them one by one.

On PostgreSQL, triggers maintain the number of secrets by the day on which they expire, see
:class:`barbtx.model.models.SecretCount`. Only the secrets that expire on the present day are counted. On other databases,
an index alone answers the question.
"""

from __future__ import annotations

import datetime
from typing import Any, TypeAlias

from sqlalchemy import BigInteger, ColumnElement, Date, cast, func, literal, literal_column, select
from sqlalchemy.orm import Session

from barbtx.model.models import Secret, SecretCount, SecretCountChange

_Text: TypeAlias = ColumnElement[str] | Any


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
        for kind in (SecretCount, SecretCountChange)
    ]
    on_this_day = (
        select(func.count())
        .select_from(Secret)
        .where(Secret.project_id == project, Secret.expiration > now, Secret.expiration < today + literal_column("1"))
        .scalar_subquery()
    )
    return cast(later[0] + later[1] + on_this_day, BigInteger)
