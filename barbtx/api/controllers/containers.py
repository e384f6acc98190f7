"""Containers, and the secrets in them. Source: the contract, section 7."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.dispatch import READS, Call, Controller, ResolvedResource, UntypedBody, operation
from barbtx.api.idempotency import creation_response
from barbtx.api.negotiation import accepts_anything
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.containers import CONTAINER, CONTAINER_SECRET, read_entries, read_entry
from barbtx.errors import BadRequest, NotFound
from barbtx.identity.policy_targets import container_target
from barbtx.model.records import Container, Created, NewContainer
from barbtx.model.repositories.listing import Condition


def container_document(call: Call, container: Container) -> dict[str, Any]:
    """A container as clients see it."""
    return {
        "created": container.created.isoformat(),
        "updated": container.updated.isoformat(),
        "status": container.status,
        "name": container.name,
        "type": container.type,
        "creator_id": container.creator_id,
        "secret_refs": [
            {"name": entry.name, "secret_ref": call.ref("secrets", entry.secret_id)} for entry in container.entries
        ],
        "consumers": [dict(consumer) for consumer in container.consumers],
        "container_ref": call.ref("containers", container.id),
    }


class ContainersController(Controller):
    """``/v1/containers``"""

    name = "Containers(s) retrieval"

    @operation(name, "containers:get", answer=responses.CONTAINERS, query=("limit", "offset", "name", "type"))
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        query = call.query
        conditions = []
        if query.get("name"):
            conditions.append(Condition("name", "like", query["name"]))
        if query.get("type"):
            conditions.append(Condition("type", "eq", query["type"]))
        paging = Paging.from_query(query, call.dependencies.conf)
        page = await call.dependencies.repositories.containers.list_page(
            call.context.project_id, conditions, paging.limit, paging.offset
        )
        items = [container_document(call, container) for container in page.items]
        return Response(document=paging.document("containers", items, page, f"{call.base}/v1/containers", query))

    @operation(
        "Container creation",
        "containers:post",
        body=CONTAINER,
        success=(201,),
        answer=responses.CONTAINER_REF,
        repeatable=True,
    )
    async def on_post(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
        container = NewContainer(
            str(uuid.uuid4()),
            call.context.project_id,
            document["type"],
            document.get("name"),
            call.context.user_id,
            read_entries(document, call.base),
        )
        created = Created("containers", container.id)
        await call.dependencies.repositories.containers.create(container, call.use(created))
        return creation_response(call, created)


class ContainerResource(Controller):
    """What the resources at and below one container's path have in common."""

    name = "Container retrieval"
    #: The methods whose answers show what is in the container.
    shows_entries: frozenset[str] = frozenset()
    #: Those whose answers show who uses it, as it was found.
    shows_consumers: frozenset[str] = frozenset()

    async def find(self, call: Call) -> ResolvedResource:
        container_id = require_uuid4(call.ids["container_id"], "container")
        container = await call.dependencies.repositories.containers.get(
            container_id,
            call.context.user_id,
            with_entries=call.method in self.shows_entries,
            with_consumers=call.method in self.shows_consumers,
        )
        if container is None:
            raise NotFound("Secrets container not found.")
        return ResolvedResource(container, container_target(container))


class ContainerController(ContainerResource):
    """``/v1/containers/{id}``"""

    shows_entries = shows_consumers = READS

    @operation("Container retrieval", "container:get", answer=responses.CONTAINER)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        return Response(document=container_document(call, found.object))

    @operation("Container deletion", "container:delete", accepts=accepts_anything, success=(204,))
    async def on_delete(self, call: Call, found: ResolvedResource) -> Response:
        if found.object.project_id != call.context.project_id:
            raise NotFound("Secrets container not found.")
        while not await call.dependencies.repositories.containers.delete(found.object.id):
            # Many consumers are deleted in several transactions.
            pass
        return Response(204)


class ContainerSecretsController(ContainerResource):
    """``/v1/containers/{id}/secrets``"""

    name = "Container secret creation"

    @operation(name, "container_secret:post", body=CONTAINER_SECRET, success=(201,), answer=responses.CONTAINER_REF)
    async def on_post(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
        if found.object.type != "generic":
            raise BadRequest("Only 'generic' containers can be modified.")
        await call.dependencies.repositories.containers.add_secret(
            found.object, call.context.project_id, read_entry(document)
        )
        ref = call.ref("containers", found.object.id)
        return Response(201, {"container_ref": ref}, headers={"Location": ref})

    @operation(
        "Container secret deletion",
        "container_secret:delete",
        accepts=accepts_anything,
        body=UntypedBody(CONTAINER_SECRET),
        success=(204,),
    )
    async def on_delete(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
        await call.dependencies.repositories.containers.remove_secret(
            found.object, call.context.project_id, read_entry(document)
        )
        return Response(204)
