"""Quotas: what holds, and what a project's own are. Source: the contract, section 11."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.answers import Answer
from barbtx.api.dispatch import Call, Controller, Found, operation
from barbtx.api.negotiation import accepts_anything
from barbtx.api.paging import Paging
from barbtx.api.schemas import answers
from barbtx.api.schemas.quotas import PROJECT_QUOTAS
from barbtx.errors import BadRequest, NotFound


class QuotasController(Controller):
    """``/v1/quotas``"""

    name = "Quotas"

    @operation(name, "quotas:get", answer=answers.QUOTAS)
    async def on_get(self, call: Call, found: Found) -> Answer:
        return Answer(document={"quotas": await call.services.quotas.effective(call.context.project_id)})


class ProjectsQuotasController(Controller):
    """``/v1/project-quotas``"""

    name = "Project Quotas"

    @operation(name, "project_quotas:get", answer=answers.PROJECTS_QUOTAS, query=("limit", "offset"))
    async def on_get(self, call: Call, found: Found) -> Answer:
        paging = Paging.from_query(call.query, call.services.conf)
        page = await call.services.quotas.list(paging.limit, paging.offset)
        items = [{"project_id": project, "project_quotas": quotas} for project, quotas in page.items]
        return Answer(document=paging.document("project_quotas", items, page, f"{call.base}/v1/project-quotas",
                                               call.query))


class ProjectQuotasController(Controller):
    """``/v1/project-quotas/{project}``"""

    name = "Project Quotas"

    @operation(name, "project_quotas:get", answer=answers.PROJECT_QUOTAS)
    async def on_get(self, call: Call, found: Found) -> Answer:
        quotas = await call.services.quotas.get(call.ids["project_id"])
        if quotas is None:
            raise NotFound("Not Found. Sorry, no project quotas are set for this project.")
        return Answer(document={"project_quotas": quotas})

    @operation(name, "project_quotas:put", body=PROJECT_QUOTAS, success=(204,))
    async def on_put(self, call: Call, found: Found, document: Mapping[str, Any]) -> Answer:
        project_id = call.ids["project_id"]
        if len(project_id) > 255:
            raise BadRequest("A project id has 255 characters at most.")
        await call.services.quotas.merge(project_id, document["project_quotas"])
        return Answer(204)

    @operation(name, "project_quotas:delete", accepts=accepts_anything, success=(204,))
    async def on_delete(self, call: Call, found: Found) -> Answer:
        await call.services.quotas.delete(call.ids["project_id"])
        return Answer(204)
