"""Pages of a project's secrets, oldest first, by one statement on PostgreSQL: the most frequent kind of list."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import Integer, bindparam, literal_column, select, true

from barbtx.model.compiled import CompiledStatement
from barbtx.model.lookups import NamedRow
from barbtx.model.models import Project
from barbtx.model.models import Secret as _S
from barbtx.model.records import Page, Secret
from barbtx.model.repositories.secret_counts import maintained_count
from barbtx.model.repositories.secret_queries import SECRET_COLUMNS, read_listed, unexpired

# How far into a list a page may reach. The planner does not know the values of parameters, so that another LIMIT tells it
# that few rows are read.
_REACHES = (20, 100, 1000)
_COLUMNS = [column for column in SECRET_COLUMNS if column.key != "project_id"]


def page_statement(limit: int, offset: int) -> CompiledStatement | None:
    """The statement for a page and the number of all secrets, or None if the page is too far into the list.

    Its parameters are ``project`` (the external id), ``now``, ``limit`` and ``offset``; :func:`read_page` reads its rows.
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
