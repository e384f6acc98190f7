"""User metadata of secrets (contract, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.call import Call
from barbtx.api.controllers.secrets import SecretResource
from barbtx.api.negotiation import accepts_anything, accepts_json_alone
from barbtx.api.operation import Operation
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.user_metadata import METADATA, METADATUM, lower_keys
from barbtx.errors import Conflict, MethodNotAllowed, NotFound
from barbtx.model.records import Secret


def _not_found() -> NotFound:
    return NotFound("Secret metadata not found.")


class SecretMetadataController(SecretResource):
    """``/v1/secrets/{id}/metadata``"""

    name = "Secret metadata retrieval"

    def _ref(self, call: Call, secret: Secret) -> str:
        return f"{call.ref('secrets', secret.id)}/metadata"

    @Operation(
        name,
        "secret_meta:get",
        title="List the user metadata of a secret",
        accepts=accepts_json_alone,
        response=responses.METADATA,
    )
    async def on_get(self, call: Call, secret: Secret) -> Response:
        """Return all metadata of the secret."""
        return Response(document={"metadata": await call.dependencies.repositories.user_metadata.get(secret.id)})

    @Operation(
        "Secret metadata creation",
        "secret_meta:put",
        title="Replace the user metadata of a secret",
        body=METADATA,
        success=(201,),
        response=responses.METADATA_REF,
    )
    async def on_put(self, call: Call, secret: Secret, document: Mapping[str, Any]) -> Response:
        """Replace all metadata of the secret."""
        await call.dependencies.repositories.user_metadata.replace(secret.id, lower_keys(document["metadata"]))
        return Response(201, {"metadata_ref": self._ref(call, secret)})

    @Operation(
        "Secret metadatum creation",
        "secret_meta:post",
        title="Add an item of user metadata",
        body=METADATUM,
        success=(201,),
        response=responses.METADATUM,
    )
    async def on_post(self, call: Call, secret: Secret, document: Mapping[str, Any]) -> Response:
        """Add a metadatum."""
        key, value = document["key"].lower(), document["value"]
        await call.dependencies.repositories.user_metadata.add(secret.id, key, value)
        return Response(201, {"key": key, "value": value}, headers={"Location": f"{self._ref(call, secret)}/{key}"})


class SecretMetadatumController(SecretResource):
    """``/v1/secrets/{id}/metadata/{key}``"""

    name = "Secret metadatum retrieval"

    @Operation(name, "secret_meta:get", title="Show an item of user metadata", response=responses.METADATUM)
    async def on_get(self, call: Call, secret: Secret) -> Response:
        """Return the metadatum."""
        key = call.ids["key"]
        value = await call.dependencies.repositories.user_metadata.find(secret.id, key)
        if value is None:
            raise _not_found()
        return Response(document={"key": key, "value": value})

    @Operation(
        "Secret metadatum update",
        "secret_meta:put",
        title="Change an item of user metadata",
        accepts=accepts_anything,
        body=METADATUM,
        response=responses.METADATUM,
        has_references=False,
    )
    async def on_put(self, call: Call, secret: Secret, document: Mapping[str, Any]) -> Response:
        """Change the value of the metadatum."""
        key, value = document["key"].lower(), document["value"]
        if await call.dependencies.repositories.user_metadata.find(secret.id, call.ids["key"]) is None:
            raise _not_found()
        if key != call.ids["key"]:
            raise Conflict("Conflict. Key in request body does not match the key in the path.")
        await call.dependencies.repositories.user_metadata.change(secret.id, key, value)
        return Response(document={"key": key, "value": value})

    @Operation(
        "Secret metadatum removal", "secret_meta:delete", title="Delete an item of user metadata", success=(204,)
    )
    async def on_delete(self, call: Call, secret: Secret) -> Response:
        """Remove the metadatum."""
        await call.dependencies.repositories.user_metadata.remove(secret.id, call.ids["key"])
        return Response(204)

    @Operation(name, "secret_meta:get", accepts=accepts_anything)
    async def on_other(self, call: Call, secret: Secret) -> Response:
        """Reject a method that the resource does not have, without the ``Allow`` header."""
        raise MethodNotAllowed
