"""Quotas: what holds, and what a project's own are. Source: the contract, section 11."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.dispatch import Call, Controller, ResolvedResource, operation
from barbtx.api.negotiation import accepts_anything
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.quotas import PROJECT_QUOTAS
from barbtx.errors import BadRequest, NotFound


class QuotasController(Controller):
    """``/v1/quotas``"""

    name = "Quotas"

    @operation(name, "quotas:get", answer=responses.QUOTAS)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        return Response(
            document={"quotas": await call.dependencies.repositories.quotas.effective(call.context.project_id)}
        )


class ProjectsQuotasController(Controller):
    """``/v1/project-quotas``"""

    name = "Project Quotas"

    @operation(name, "project_quotas:get", answer=responses.PROJECTS_QUOTAS, query=("limit", "offset"))
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        paging = Paging.from_query(call.query, call.dependencies.conf)
        page = await call.dependencies.repositories.quotas.list_page(paging.limit, paging.offset)
        items = [{"project_id": project, "project_quotas": quotas} for project, quotas in page.items]
        return Response(
            document=paging.document("project_quotas", items, page, f"{call.base}/v1/project-quotas", call.query)
        )


class ProjectQuotasController(Controller):
    """``/v1/project-quotas/{project}``"""

    name = "Project Quotas"

    @operation(name, "project_quotas:get", answer=responses.PROJECT_QUOTAS)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        quotas = await call.dependencies.repositories.quotas.get(call.ids["project_id"])
        if quotas is None:
            raise NotFound("Not Found. Sorry, no project quotas are set for this project.")
        return Response(document={"project_quotas": quotas})

    @operation(name, "project_quotas:put", body=PROJECT_QUOTAS, success=(204,))
    async def on_put(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
        project_id = call.ids["project_id"]
        if len(project_id) > 255:
            raise BadRequest("A project id has 255 characters at most.")
        await call.dependencies.repositories.quotas.merge(project_id, document["project_quotas"])
        return Response(204)

    @operation(name, "project_quotas:delete", accepts=accepts_anything, success=(204,))
    async def on_delete(self, call: Call, found: ResolvedResource) -> Response:
        await call.dependencies.repositories.quotas.delete(call.ids["project_id"])
        return Response(204)
