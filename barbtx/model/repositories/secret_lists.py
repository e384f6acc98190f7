"""Pages of a project's secrets, oldest first, by one statement on PostgreSQL: the most frequent kind of list."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import attrs
from sqlalchemy import Integer, bindparam, literal_column, select, true

from barbtx.model.compiled import CompiledStatement
from barbtx.model.lookups import NamedRow
from barbtx.model.models import Project
from barbtx.model.models import Secret as _S
from barbtx.model.records import Page, Secret
from barbtx.model.repositories.secret_counts import maintained_count
from barbtx.model.repositories.secret_queries import SECRET_COLUMNS, read_listed, unexpired

# How far into a list a page may reach. The planner does not know the values of parameters, so that another LIMIT has to
# tell it that few rows are read.
_REACHES = (20, 100, 1000)
_COLUMNS = [column for column in SECRET_COLUMNS if column.key != "project_id"]


# How long the lists of a project that was slow are not read by the statement, in seconds, and of how many projects that
# is remembered.
_SLOW_SECONDS = 10.0
_MAX_SLOW = 1000


@attrs.define(eq=False)
class SlowProjects:
    """Projects whose lists were slow a short time ago. They must not delay those of other projects again and again."""

    _until: dict[str, float] = attrs.field(factory=dict, init=False)

    def note(self, project_id: str, now: float) -> None:
        """Note that a list was slow.

        :param now: in seconds of a monotonic clock.
        """
        self._until.pop(project_id, None)
        self._until[project_id] = now + _SLOW_SECONDS
        if len(self._until) > _MAX_SLOW:
            del self._until[next(iter(self._until))]

    def has(self, project_id: str, now: float) -> bool:
        """Whether a list of a project was slow a short time ago."""
        return project_id in self._until and now < self._until[project_id]


def page_statement(limit: int, offset: int) -> CompiledStatement | None:
    """The statement for a page and the number of all secrets, or None if the page is too far into the list.

    Its parameters are ``project`` (external id), ``now``, ``limit`` and ``offset``; :func:`read_page` reads its rows.
    """
    reach = next((reach for reach in _REACHES if offset + limit <= reach), None)
    return None if reach is None else _page_statement(reach)


def read_page(rows: Sequence[NamedRow]) -> Page[Secret]:
    """The page in the rows of :func:`page_statement`."""
    if not rows:
        return Page((), 0)
    # A page without secrets is a row of nulls.
    return Page(tuple([read_listed(row) for row in rows if row.id is not None]), rows[0].total)


@lru_cache
def _page_statement(reach: int) -> CompiledStatement:
    now = bindparam("now", type_=_S.expiration.type)
    project = (
        select(Project.id, Project.external_id, maintained_count(Project.id, now).label("total"))
        .where(Project.external_id == bindparam("project"))
        .cte("project")
        # The secrets would otherwise be counted once for each row of the page.
        .prefix_with("MATERIALIZED")
    )
    oldest = (
        select(*_COLUMNS)
        .where(_S.project_id == project.c.id, unexpired(now))
        .order_by(_S.created_at, _S.id)
        .limit(literal_column(str(reach)))
        .correlate(project)
        .subquery("oldest")
    )
    page = (
        select(oldest)
        .order_by(oldest.c.created, oldest.c.id)
        .limit(bindparam("limit", type_=Integer))
        .offset(bindparam("offset", type_=Integer))
        .lateral("page")
    )
    return CompiledStatement.of(
        select(project.c.total, project.c.external_id.label("project_id"), *page.c)
        .select_from(project.outerjoin(page, true()))
        .order_by(page.c.created, page.c.id)
    )
