"""Transport keys. Source: the contract, section 10."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.answers import Answer
from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.dispatch import Call, Controller, Found, operation
from barbtx.api.negotiation import accepts_anything
from barbtx.api.paging import Paging
from barbtx.api.schemas import answers
from barbtx.api.schemas.transport_keys import TRANSPORT_KEY
from barbtx.errors import MethodNotAllowed, NotFound
from barbtx.model.records import TransportKey


class TransportKeysController(Controller):
    """``/v1/transport_keys``"""

    name = "Transport Key(s) retrieval"

    @operation(name, None, accepts=accepts_anything)
    async def on_other(self, call: Call, found: Found) -> Answer:
        raise MethodNotAllowed

    @operation(name, "transport_keys:get", answer=answers.TRANSPORT_KEYS, query=("limit", "offset", "plugin_name"))
    async def on_get(self, call: Call, found: Found) -> Answer:
        paging = Paging.from_query(call.query, call.services.conf)
        page = await call.services.transport_keys.list(call.query.get("plugin_name"), paging.limit, paging.offset)
        items = [call.ref("transport_keys", key_id) for key_id in page.items]
        return Answer(document=paging.document("transport_keys", items, page, f"{call.base}/v1/transport_keys",
                                               call.query))

    @operation("Transport Key Creation", "transport_keys:post", body=TRANSPORT_KEY, success=(201,),
               answer=answers.TRANSPORT_KEY_REF)
    async def on_post(self, call: Call, found: Found, document: Mapping[str, Any]) -> Answer:
        key_id = await call.services.transport_keys.create(document["plugin_name"], document["transport_key"])
        ref = call.ref("transport_keys", key_id)
        return Answer(201, {"transport_key_ref": ref}, headers={"Location": ref})


class TransportKeyController(Controller):
    """``/v1/transport_keys/{id}``"""

    name = "Transport Key retrieval"

    @operation(name, None, accepts=accepts_anything)
    async def on_other(self, call: Call, found: Found) -> Answer:
        raise MethodNotAllowed

    async def find(self, call: Call) -> Found:
        if self.operation_for(call) is self.on_other:
            return Found()
        key = await call.services.transport_keys.get(require_uuid4(call.ids["key_id"], "transport key"))
        if key is None:
            raise NotFound("Not Found. Transport Key not found.")
        return Found(key)

    @operation(name, "transport_key:get", answer=answers.TRANSPORT_KEY)
    async def on_get(self, call: Call, found: Found) -> Answer:
        key: TransportKey = found.object
        return Answer(document={
            "id": key.id, "plugin_name": key.plugin_name, "transport_key": key.transport_key, "status": key.status,
            "created_at": key.created.strftime("%Y-%m-%d %H:%M:%S"),
            "updated_at": key.updated.strftime("%Y-%m-%d %H:%M:%S"),
            "deleted_at": None, "deleted": False,
        })

    @operation("Transport Key deletion", "transport_key:delete", accepts=accepts_anything, success=(204,))
    async def on_delete(self, call: Call, found: Found) -> Answer:
        await call.services.transport_keys.delete(found.object.id)
        return Answer(204)
