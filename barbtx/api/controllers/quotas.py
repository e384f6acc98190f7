"""Effective quotas, and quotas of individual projects (contract, section 11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.call import Call
from barbtx.api.dispatch import CollectionController
from barbtx.api.negotiation import accepts_anything
from barbtx.api.operation import Operation
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.quotas import PROJECT_QUOTAS
from barbtx.errors import BadRequest, NotFound


class QuotasController(CollectionController):
    """``/v1/quotas``"""

    name = "Quotas"

    @Operation(
        name, "quotas:get", title="Show the quotas that apply to the caller's project", response=responses.QUOTAS
    )
    async def on_get(self, call: Call, _: None) -> Response:
        """Return the quotas that apply to the caller's project."""
        quotas = await call.dependencies.repositories.quotas.effective(call.project_id)
        return Response(document={"quotas": quotas})


class ProjectsQuotasController(CollectionController):
    """``/v1/project-quotas``"""

    name = "Project Quotas"

    @Operation(
        name,
        "project_quotas:get",
        title="List the quotas of projects",
        response=responses.PROJECTS_QUOTAS,
        query=("limit", "offset"),
    )
    async def on_get(self, call: Call, _: None) -> Response:
        """Return a page of the projects that have quotas of their own."""
        paging = Paging.from_query(call.query, call.dependencies.conf)
        page = await call.dependencies.repositories.quotas.list_page(paging.limit, paging.offset)
        items = [{"project_id": project, "project_quotas": quotas} for project, quotas in page.items]
        return Response(
            document=paging.document("project_quotas", items, page, call.collection_ref("project-quotas"), call.query)
        )


class ProjectQuotasController(CollectionController):
    """``/v1/project-quotas/{project_id}``"""

    name = "Project Quotas"

    @Operation(name, "project_quotas:get", title="Show the quotas of a project", response=responses.PROJECT_QUOTAS)
    async def on_get(self, call: Call, _: None) -> Response:
        """Return the project's own quotas."""
        quotas = await call.dependencies.repositories.quotas.get(call.ids["project_id"])
        if quotas is None:
            raise NotFound("Not Found. Sorry, no project quotas are set for this project.")
        return Response(document={"project_quotas": quotas})

    @Operation(name, "project_quotas:put", title="Set quotas of a project", body=PROJECT_QUOTAS, success=(204,))
    async def on_put(self, call: Call, _: None, document: Mapping[str, Any]) -> Response:
        """Set some of the project's own quotas."""
        project_id = call.ids["project_id"]
        if len(project_id) > 255:
            raise BadRequest("A project id has at most 255 characters.")
        await call.dependencies.repositories.quotas.merge(project_id, document["project_quotas"])
        return Response(204)

    @Operation(
        name, "project_quotas:delete", title="Remove the quotas of a project", accepts=accepts_anything, success=(204,)
    )
    async def on_delete(self, call: Call, _: None) -> Response:
        """Remove the project's own quotas, so that the defaults apply."""
        await call.dependencies.repositories.quotas.delete(call.ids["project_id"])
        return Response(204)
