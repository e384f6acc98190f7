"""The statement that claims the next orders of a lane for several callers at once, in PostgreSQL.

It finds the projects whose turn it is by one index lookup each, however many orders wait, and then the oldest orders
of each. A project's share of the claims is such that the projects take turns, as if the orders were claimed one after
the other.

PostgreSQL makes the plan once, often while the tables are small, and would then read the whole of them for a join or
for EXISTS. Limits, arrays and scalar subqueries leave it only the index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    String,
    and_,
    bindparam,
    case,
    column,
    exists,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    true,
    union_all,
    update,
)

from barbtx.model import models
from barbtx.model.compiled import CompiledStatement
from barbtx.model.database_time import DATABASE_TIME
from barbtx.model.lookups import NamedRow
from barbtx.model.records import Lease, Order
from barbtx.model.repositories.creations import IN_TIME
from barbtx.model.repositories.order_queries import ORDER_COLUMNS
from barbtx.model.repositories.order_tasks import is_free, later
from barbtx.model.repositories.projects import closes
from barbtx.model.repositories.rows import fields

_O, _T, _P, _R = models.Order, models.OrderRetryTask, models.Project, models.ProjectRemoval

# A claim of unknown outcome takes the same lock before it is repeated (see order_claims), and so waits for this one.
_ASKED = (
    "SELECT n, k ->> 0 AS token, k ->> 1 AS order_id, pg_advisory_xact_lock(hashtextextended(k ->> 0, 0)) AS locked "
    "FROM json_array_elements(CAST(:claims AS json)) WITH ORDINALITY AS t(k, n)"
)


@lru_cache(maxsize=16)
def claim_statement(seconds: float) -> CompiledStatement:
    """The statement; :func:`claim_values` returns its parameters.

    It returns a row for each claim, with the columns of its order if it got one, for :func:`read_lease`, and with:

    ``n``
        the number of the claim, from 1.
    ``unsure``
        whether only a transaction of several statements can tell which order the claim gets: the order that its message
        names is in another lane, or is to be claimed itself because it does not wait, or there are too many projects
        whose orders cannot be claimed now.
    ``any_taken``
        whether other claims got an order. If not, and if it is not unsure either, nothing waits.
    ``known``
        whether the order that the message names exists.

    :param seconds: the leases expire after this time.
    """
    clock = select(DATABASE_TIME.label("now")).cte("clock")
    now: ColumnElement[Any] = select(clock.c.now).scalar_subquery()
    asked = text(_ASKED).columns(column("n", Integer), column("token", String), column("order_id", String)).cte("asked")
    special = _special(asked, now, seconds)
    permits = (
        select(asked.c.token, func.row_number().over(order_by=asked.c.n).label("n"))
        .where(asked.c.n.not_in(select(special.c.n)), IN_TIME)
        .cte("permits")
    )
    count = select(func.count()).select_from(permits).scalar_subquery()
    turns = _turns(count)
    picked = _picked(turns, count, now, seconds)
    assigned = select(picked.c.order_id, permits.c.token).join(permits, permits.c.n == picked.c.n).cte("assigned")
    ids = select(assigned.c.order_id).scalar_subquery()
    until = later(now, seconds)
    taken = (
        update(_T)
        .where(_T.order_id == assigned.c.order_id, _T.order_id == func.any(func.array(ids)))
        .values(
            lease=assigned.c.token,
            leased_until=until,
            retry_at=until,
            retry_count=_T.retry_count + 1,
            waits_in=None,
            written_at=now,
        )
        .returning(_T.lease.label("token"), _T.order_id, _T.retry_count, _T.retry_kwargs, _T.project_id)
        .cte("taken")
    )
    turn_count = select(func.count()).select_from(turns).scalar_subquery()
    order = (
        select(*ORDER_COLUMNS)
        .join(_P, _P.id == _O.project_id)
        .where(_O.id == taken.c.order_id)
        .limit(1)
        .lateral("order_")
    )
    claimed = (
        select(
            *order.c,
            taken.c.retry_count.label("attempt"),
            taken.c.retry_kwargs,
            taken.c.project_id.label("project_key"),
            taken.c.token.label("claim"),
        )
        .select_from(taken.join(order, true()))
        .cte("claimed")
        .prefix_with("MATERIALIZED")
    )
    named = select(_O.id).where(_O.id == asked.c.order_id).scalar_subquery()
    return CompiledStatement.of(
        select(
            *[each for each in claimed.c if each.key != "claim"],
            asked.c.n,
            or_(asked.c.n.in_(select(special.c.n)), turn_count > count).label("unsure"),
            exists(select(taken.c.order_id)).label("any_taken"),
            case((claimed.c.id.is_(None), named.is_not(None)), else_=true()).label("known"),
        )
        .select_from(asked)
        .outerjoin(claimed, claimed.c.claim == asked.c.token)
    )


def _special(asked: CTE, now: ColumnElement[Any], seconds: float) -> CTE:
    """The claims whose named order waits in another lane, or does not wait and is not leased either."""
    named = (
        select(_T.waits_in, _T.leased_until, _T.written_at)
        .where(_T.order_id == asked.c.order_id)
        .limit(1)
        .lateral("named")
    )
    is_retry = and_(named.c.waits_in.is_(None), is_free(now, seconds, named.c))
    return (
        select(asked.c.n)
        .select_from(asked.join(named, true()))
        .where(or_(named.c.waits_in != _lane(), is_retry))
        .cte("special")
    )


def _turns(count: ColumnElement[int]) -> CTE:
    """The projects that have orders waiting, in the order of their turns: one more than there are claims, at most."""
    after = bindparam("after", type_=_T.project_id.type)
    turns = select(after.label("project_id"), literal(0, Integer).label("place"), false().label("wrapped")).cte(
        "turns", recursive=True
    )

    def next_of(wrapped: ColumnElement[bool], *conditions: ColumnElement[bool]) -> Any:
        return (
            select(_T.project_id, wrapped.label("wrapped"))
            .where(_T.waits_in == _lane(), *conditions)
            .order_by(_T.project_id)
            .limit(1)
            .correlate(turns)
            .subquery()
        )

    rest = next_of(turns.c.wrapped, _T.project_id > turns.c.project_id, or_(~turns.c.wrapped, _T.project_id <= after))
    start = next_of(true(), ~turns.c.wrapped, _T.project_id <= after)
    either = union_all(select(rest.c.project_id, rest.c.wrapped), select(start.c.project_id, start.c.wrapped))
    following = either.order_by(literal_column("wrapped")).limit(1).lateral("following")
    turns = turns.union_all(
        select(following.c.project_id, turns.c.place + 1, following.c.wrapped)
        .select_from(turns.join(following, true()))
        .where(turns.c.place <= count)
    )
    return select(turns.c.project_id, turns.c.place).where(turns.c.place > 0).cte("found")


def _picked(turns: CTE, count: ColumnElement[int], now: ColumnElement[Any], seconds: float) -> CTE:
    """The orders to claim, numbered in the order in which the projects take turns."""
    removal = exists().where(_P.id == turns.c.project_id, _R.project_id == _P.external_id, closes(now)).correlate(turns)
    open_ = (
        select(turns.c.project_id, func.row_number().over(order_by=turns.c.place).label("place"))
        .where(~removal, turns.c.place <= count)
        .cte("open_")
    )
    projects = select(func.count()).select_from(open_).scalar_subquery()
    share = count // projects + case((open_.c.place <= count % projects, 1), else_=0)
    oldest = (
        select(_T.order_id, _T.created_at)
        .where(_T.waits_in == _lane(), _T.project_id == open_.c.project_id, is_free(now, seconds))
        .order_by(_T.created_at)
        .limit(share)
        .correlate(open_)
        .with_for_update(of=_T, skip_locked=True)
        .lateral("oldest")
    )
    locked = (
        select(open_.c.place, oldest.c.order_id, oldest.c.created_at)
        .select_from(open_.join(oldest, true()))
        .cte("locked")
    )
    turn = func.row_number().over(partition_by=locked.c.place, order_by=locked.c.created_at)
    numbered = select(locked.c.order_id, locked.c.place, turn.label("turn")).subquery()
    number = func.row_number().over(order_by=(numbered.c.turn, numbered.c.place))
    return select(numbered.c.order_id, number.label("n")).cte("picked")


def _lane() -> ColumnElement[str]:
    return bindparam("lane", type_=_T.waits_in.type)


def claim_values(lane: str, after: str, claims: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """The parameters of :func:`claim_statement`.

    :param after: primary key of the project that had its turn last.
    :param claims: the token of each claim, and the id of the order that its message names, if there is one.
    """
    return {"lane": lane, "after": after, "claims": json.dumps(claims)}


def read_lease(row: NamedRow, token: str) -> Lease:
    """The lease in a row of :func:`claim_statement`."""
    return Lease(
        order=Order(**fields(row, ORDER_COLUMNS)),
        token=token,
        attempt=row.attempt,
        request_id=json.loads(row.retry_kwargs).get("request_id"),
        project_key=row.project_key or "",
    )
