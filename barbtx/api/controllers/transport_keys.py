"""Transport keys, for which clients can wrap payloads (contract, section 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.call import Call
from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.dispatch import CollectionController, Controller, ResolvedResource
from barbtx.api.negotiation import accepts_anything
from barbtx.api.operation import Operation
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.transport_keys import TRANSPORT_KEY
from barbtx.errors import MethodNotAllowed, NotFound
from barbtx.model.records import TransportKey


class TransportKeysController(CollectionController):
    """``/v1/transport_keys``"""

    name = "Transport Key(s) retrieval"

    @Operation(name, None, accepts=accepts_anything)
    async def on_other(self, call: Call, _: None) -> Response:
        """Reject a method that the resource does not have, without the ``Allow`` header."""
        raise MethodNotAllowed

    @Operation(
        name,
        "transport_keys:get",
        title="List transport keys",
        response=responses.TRANSPORT_KEYS,
        query=("limit", "offset", "plugin_name"),
    )
    async def on_get(self, call: Call, _: None) -> Response:
        """Return a page of references to transport keys."""
        paging = Paging.from_query(call.query, call.dependencies.conf)
        page = await call.dependencies.repositories.transport_keys.list_page(
            call.query.get("plugin_name"), paging.limit, paging.offset
        )
        items = [call.ref("transport_keys", key_id) for key_id in page.items]
        return Response(
            document=paging.document("transport_keys", items, page, call.collection_ref("transport_keys"), call.query)
        )

    @Operation(
        "Transport Key Creation",
        "transport_keys:post",
        title="Create a transport key",
        body=TRANSPORT_KEY,
        success=(201,),
        response=responses.TRANSPORT_KEY_REF,
    )
    async def on_post(self, call: Call, _: None, document: Mapping[str, Any]) -> Response:
        """Store a transport key."""
        key_id = await call.dependencies.repositories.transport_keys.create(
            document["plugin_name"], document["transport_key"]
        )
        ref = call.ref("transport_keys", key_id)
        return Response(201, {"transport_key_ref": ref}, headers={"Location": ref})


class TransportKeyController(Controller[TransportKey | None]):
    """``/v1/transport_keys/{id}``"""

    name = "Transport Key retrieval"

    @Operation(name, None, accepts=accepts_anything)
    async def on_other(self, call: Call, _: None) -> Response:
        """Reject a method that the resource does not have, without the ``Allow`` header."""
        raise MethodNotAllowed

    async def resolve(self, call: Call) -> ResolvedResource[TransportKey | None]:
        """Find the transport key; None for a method that the resource does not have.

        :raises NotFound: the id is not valid, or there is no such key.
        """
        if call.operation is self.on_other:
            return ResolvedResource(None)
        key = await call.dependencies.repositories.transport_keys.get(
            require_uuid4(call.ids["key_id"], "transport key")
        )
        if key is None:
            raise NotFound("Not Found. Transport Key not found.")
        return ResolvedResource(key)

    @Operation(name, "transport_key:get", title="Show a transport key", response=responses.TRANSPORT_KEY)
    async def on_get(self, call: Call, key: TransportKey) -> Response:
        """Return the transport key."""
        return Response(
            document={
                "id": key.id,
                "plugin_name": key.plugin_name,
                "transport_key": key.transport_key,
                "status": key.status,
                "created_at": key.created.strftime("%Y-%m-%d %H:%M:%S"),
                "updated_at": key.updated.strftime("%Y-%m-%d %H:%M:%S"),
                "deleted_at": None,
                "deleted": False,
            }
        )

    @Operation(
        "Transport Key deletion",
        "transport_key:delete",
        title="Delete a transport key",
        accepts=accepts_anything,
        success=(204,),
    )
    async def on_delete(self, call: Call, key: TransportKey) -> Response:
        """Delete the transport key."""
        await call.dependencies.repositories.transport_keys.delete(key.id)
        return Response(204)
