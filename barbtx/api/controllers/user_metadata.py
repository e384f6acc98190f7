"""User metadata of secrets. Source: the contract, section 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.controllers.secrets import SecretResource
from barbtx.api.dispatch import Call, ResolvedResource, operation
from barbtx.api.negotiation import accepts_anything, accepts_json_alone
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.user_metadata import METADATA, METADATUM, lower_keys
from barbtx.errors import Conflict, MethodNotAllowed, NotFound


def _not_found() -> NotFound:
    return NotFound("Secret metadata not found.")


class SecretMetadataController(SecretResource):
    """``/v1/secrets/{id}/metadata``"""

    name = "Secret metadata retrieval"

    def _ref(self, call: Call, found: ResolvedResource) -> str:
        return f"{call.ref('secrets', found.object.id)}/metadata"

    @operation(name, "secret_meta:get", accepts=accepts_json_alone, answer=responses.METADATA)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        return Response(document={"metadata": await call.dependencies.repositories.user_metadata.get(found.object.id)})

    @operation(
        "Secret metadata creation", "secret_meta:put", body=METADATA, success=(201,), answer=responses.METADATA_REF
    )
    async def on_put(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
        await call.dependencies.repositories.user_metadata.replace(found.object.id, lower_keys(document["metadata"]))
        return Response(201, {"metadata_ref": self._ref(call, found)})

    @operation(
        "Secret metadatum creation", "secret_meta:post", body=METADATUM, success=(201,), answer=responses.METADATUM
    )
    async def on_post(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
        key, value = document["key"].lower(), document["value"]
        await call.dependencies.repositories.user_metadata.add(found.object.id, key, value)
        return Response(201, {"key": key, "value": value}, headers={"Location": f"{self._ref(call, found)}/{key}"})


class SecretMetadatumController(SecretResource):
    """``/v1/secrets/{id}/metadata/{key}``"""

    name = "Secret metadatum retrieval"

    @operation(name, "secret_meta:get", answer=responses.METADATUM)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        key = call.ids["key"]
        value = await call.dependencies.repositories.user_metadata.find(found.object.id, key)
        if value is None:
            raise _not_found()
        return Response(document={"key": key, "value": value})

    @operation(
        "Secret metadatum update",
        "secret_meta:put",
        accepts=accepts_anything,
        body=METADATUM,
        answer=responses.METADATUM,
        refers=False,
    )
    async def on_put(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
        key, value = document["key"].lower(), document["value"]
        if await call.dependencies.repositories.user_metadata.find(found.object.id, call.ids["key"]) is None:
            raise _not_found()
        if key != call.ids["key"]:
            raise Conflict("Conflict. Key in request body does not match the key in the path.")
        await call.dependencies.repositories.user_metadata.change(found.object.id, key, value)
        return Response(document={"key": key, "value": value})

    @operation("Secret metadatum removal", "secret_meta:delete", success=(204,))
    async def on_delete(self, call: Call, found: ResolvedResource) -> Response:
        await call.dependencies.repositories.user_metadata.remove(found.object.id, call.ids["key"])
        return Response(204)

    @operation(name, "secret_meta:get", accepts=accepts_anything)
    async def on_other(self, call: Call, found: ResolvedResource) -> Response:
        raise MethodNotAllowed
