"""Secret stores: which there are, and which a project prefers. Source: the contract, section 12."""

from __future__ import annotations

from typing import Any

from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.dispatch import Call, Controller, ResolvedResource, operation
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.errors import NotFound
from barbtx.model.records import SecretStore
from barbtx.model.repositories.secret_stores import SecretStoreRepo


def _stores(call: Call) -> SecretStoreRepo:
    """:raises NotFound: there is nothing to choose from."""
    stores = call.dependencies.stores
    if not stores.backends:
        raise NotFound("Not Found. Multiple backends support is not enabled in service configuration.")
    return stores.choices


def _document(call: Call, store: SecretStore) -> dict[str, Any]:
    return {
        "created": store.created.isoformat(),
        "updated": store.updated.isoformat(),
        "status": store.status,
        "name": store.name,
        "global_default": bool(store.global_default),
        "secret_store_plugin": store.store_plugin,
        "crypto_plugin": store.crypto_plugin,
        "secret_store_ref": call.ref("secret-stores", store.id),
    }


class SecretStoresController(Controller):
    """``/v1/secret-stores``"""

    name = "Secret store(s) retrieval"

    @operation(name, "secretstores:get", answer=responses.SECRET_STORES)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        return Response(
            document={"secret_stores": [_document(call, store) for store in await _stores(call).list_all()]}
        )


class GlobalDefaultController(Controller):
    """``/v1/secret-stores/global-default``"""

    name = "Global default secret store retrieval"

    @operation(name, "secretstores:get_global_default", answer=responses.SECRET_STORE)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        (store,) = [store for store in await _stores(call).list_all() if store.global_default]
        return Response(document=_document(call, store))


class PreferredStoreController(Controller):
    """``/v1/secret-stores/preferred``"""

    name = "Preferred secret store retrieval"

    @operation(name, "secretstores:get_preferred", answer=responses.SECRET_STORE)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        store = await _stores(call).preferred(call.context.project_id)
        if store is None:
            raise NotFound("Not Found. No preferred secret store defined for this project.")
        return Response(document=_document(call, store))


class SecretStoreController(Controller):
    """``/v1/secret-stores/{id}``"""

    name = "Secret store retrieval"

    async def find(self, call: Call) -> ResolvedResource:
        store = await _stores(call).get(require_uuid4(call.ids["store_id"], "secret store"))
        if store is None:
            raise NotFound("Not Found. Secret store not found.")
        return ResolvedResource(store)

    @operation(name, "secretstore:get", answer=responses.SECRET_STORE)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        return Response(document=_document(call, found.object))


class StorePreferenceController(SecretStoreController):
    """``/v1/secret-stores/{id}/preferred``"""

    name = "Setting preferred secret store"
    on_get = None

    @operation(name, "secretstore_preferred:post", success=(204,))
    async def on_post(self, call: Call, found: ResolvedResource) -> Response:
        await _stores(call).prefer(call.context.project_id, found.object.id)
        return Response(204)

    @operation("Removing preferred secret store", "secretstore_preferred:delete", success=(204,))
    async def on_delete(self, call: Call, found: ResolvedResource) -> Response:
        await _stores(call).forget_preference(call.context.project_id)
        return Response(204)
