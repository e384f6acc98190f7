"""Containers and their entries (contract, section 7)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from barbtx.api.call import Call
from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.dispatch import SAFE_METHODS, CollectionController, Controller, ResolvedResource
from barbtx.api.idempotency import creation_response
from barbtx.api.negotiation import accepts_anything
from barbtx.api.operation import Operation, UntypedBody
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.containers import CONTAINER, CONTAINER_SECRET, read_entries, read_entry
from barbtx.errors import BadRequest, NotFound
from barbtx.identity.policy_targets import container_target
from barbtx.model.records import Container, Created, NewContainer
from barbtx.model.repositories.listing import Condition


def container_document(call: Call, container: Container) -> dict[str, Any]:
    """Return a container as clients see it."""
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


class ContainersController(CollectionController):
    """``/v1/containers``"""

    name = "Containers(s) retrieval"

    @Operation(
        name,
        "containers:get",
        title="List containers",
        response=responses.CONTAINERS,
        query=("limit", "offset", "name", "type"),
    )
    async def on_get(self, call: Call, _: None) -> Response:
        """Return a page of the project's containers."""
        query = call.query
        conditions = []
        if query.get("name"):
            conditions.append(Condition("name", "like", query["name"]))
        if query.get("type"):
            conditions.append(Condition("type", "eq", query["type"]))
        paging = Paging.from_query(query, call.dependencies.conf)
        page = await call.dependencies.repositories.containers.list_page(
            call.project_id, conditions, paging.limit, paging.offset
        )
        items = [container_document(call, container) for container in page.items]
        return Response(document=paging.document("containers", items, page, call.collection_ref("containers"), query))

    @Operation(
        "Container creation",
        "containers:post",
        title="Create a container",
        body=CONTAINER,
        success=(201,),
        response=responses.CONTAINER_REF,
        supports_idempotency=True,
    )
    async def on_post(self, call: Call, _: None, document: Mapping[str, Any]) -> Response:
        """Create a container."""
        container = NewContainer(
            id=str(uuid.uuid4()),
            project_id=call.project_id,
            type=document["type"],
            name=document.get("name"),
            creator_id=call.context.user_id,
            entries=read_entries(document, call.base_url()),
        )
        created = Created("containers", container.id)
        await call.dependencies.repositories.containers.create(container, call.idempotency_record(created))
        return creation_response(call, created)


class ContainerResource(Controller[Container]):
    """Base class for the resources at and below a container's path.

    :cvar shows_entries: methods whose responses contain the container's entries.
    :cvar shows_consumers: methods whose responses contain its consumers as they were before the handler.
    """

    name = "Container retrieval"
    shows_entries: frozenset[str] = frozenset()
    shows_consumers: frozenset[str] = frozenset()

    async def resolve(self, call: Call) -> ResolvedResource[Container]:
        """Find the container.

        :raises NotFound: the id is not valid, or there is no such container.
        """
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

    shows_entries = shows_consumers = SAFE_METHODS

    @Operation("Container retrieval", "container:get", title="Show a container", response=responses.CONTAINER)
    async def on_get(self, call: Call, container: Container) -> Response:
        """Return the container, with its entries and consumers."""
        return Response(document=container_document(call, container))

    @Operation(
        "Container deletion", "container:delete", title="Delete a container", accepts=accepts_anything, success=(204,)
    )
    async def on_delete(self, call: Call, container: Container) -> Response:
        """Delete the container. Callers of other projects are refused even if policy allows them."""
        if container.project_id != call.project_id:
            raise NotFound("Secrets container not found.")
        while not await call.dependencies.repositories.containers.delete(container.id):
            # Each transaction deletes a limited number of consumers.
            pass
        return Response(204)


class ContainerSecretsController(ContainerResource):
    """``/v1/containers/{id}/secrets``"""

    name = "Container secret creation"

    @Operation(
        name,
        "container_secret:post",
        title="Add a secret to a container",
        body=CONTAINER_SECRET,
        success=(201,),
        response=responses.CONTAINER_REF,
    )
    async def on_post(self, call: Call, container: Container, document: Mapping[str, Any]) -> Response:
        """Add a secret to the container."""
        if container.type != "generic":
            raise BadRequest("Only 'generic' containers can be modified.")
        await call.dependencies.repositories.containers.add_secret(container, call.project_id, read_entry(document))
        ref = call.ref("containers", container.id)
        return Response(201, {"container_ref": ref}, headers={"Location": ref})

    @Operation(
        "Container secret deletion",
        "container_secret:delete",
        title="Remove a secret from a container",
        accepts=accepts_anything,
        body=UntypedBody(CONTAINER_SECRET),
        success=(204,),
    )
    async def on_delete(self, call: Call, container: Container, document: Mapping[str, Any]) -> Response:
        """Remove a secret from the container."""
        await call.dependencies.repositories.containers.remove_secret(container, call.project_id, read_entry(document))
        return Response(204)
