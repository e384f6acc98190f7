"""Transport keys. Source: the contract, section 10."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.dispatch import Call, Controller, ResolvedResource, operation
from barbtx.api.negotiation import accepts_anything
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.transport_keys import TRANSPORT_KEY
from barbtx.errors import MethodNotAllowed, NotFound
from barbtx.model.records import TransportKey


class TransportKeysController(Controller):
    """``/v1/transport_keys``"""

    name = "Transport Key(s) retrieval"

    @operation(name, None, accepts=accepts_anything)
    async def on_other(self, call: Call, found: ResolvedResource) -> Response:
        raise MethodNotAllowed

    @operation(name, "transport_keys:get", answer=responses.TRANSPORT_KEYS, query=("limit", "offset", "plugin_name"))
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        paging = Paging.from_query(call.query, call.dependencies.conf)
        page = await call.dependencies.repositories.transport_keys.list_page(
            call.query.get("plugin_name"), paging.limit, paging.offset
        )
        items = [call.ref("transport_keys", key_id) for key_id in page.items]
        return Response(
            document=paging.document("transport_keys", items, page, f"{call.base}/v1/transport_keys", call.query)
        )

    @operation(
        "Transport Key Creation",
        "transport_keys:post",
        body=TRANSPORT_KEY,
        success=(201,),
        answer=responses.TRANSPORT_KEY_REF,
    )
    async def on_post(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
        key_id = await call.dependencies.repositories.transport_keys.create(
            document["plugin_name"], document["transport_key"]
        )
        ref = call.ref("transport_keys", key_id)
        return Response(201, {"transport_key_ref": ref}, headers={"Location": ref})


class TransportKeyController(Controller):
    """``/v1/transport_keys/{id}``"""

    name = "Transport Key retrieval"

    @operation(name, None, accepts=accepts_anything)
    async def on_other(self, call: Call, found: ResolvedResource) -> Response:
        raise MethodNotAllowed

    async def find(self, call: Call) -> ResolvedResource:
        if self.operation_for(call) is self.on_other:
            return ResolvedResource()
        key = await call.dependencies.repositories.transport_keys.get(
            require_uuid4(call.ids["key_id"], "transport key")
        )
        if key is None:
            raise NotFound("Not Found. Transport Key not found.")
        return ResolvedResource(key)

    @operation(name, "transport_key:get", answer=responses.TRANSPORT_KEY)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        key: TransportKey = found.object
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

    @operation("Transport Key deletion", "transport_key:delete", accepts=accepts_anything, success=(204,))
    async def on_delete(self, call: Call, found: ResolvedResource) -> Response:
        await call.dependencies.repositories.transport_keys.delete(found.object.id)
        return Response(204)
