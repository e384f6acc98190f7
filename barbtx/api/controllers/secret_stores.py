"""Secret stores, and which of them a project prefers (contract, section 12)."""

from __future__ import annotations

from typing import Any

from barbtx.api.call import Call
from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.dispatch import CollectionController, Controller, ResolvedResource
from barbtx.api.operation import Operation
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.errors import NotFound
from barbtx.model.records import SecretStore
from barbtx.model.repositories.secret_stores import SecretStoreRepo


def _repository(call: Call) -> SecretStoreRepo:
    """Return the repository of secret stores.

    :raises NotFound: the configuration does not enable multiple stores.
    """
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


class SecretStoresController(CollectionController):
    """``/v1/secret-stores``"""

    name = "Secret store(s) retrieval"

    @Operation(name, "secretstores:get", title="List secret stores", response=responses.SECRET_STORES)
    async def on_get(self, call: Call, _: None) -> Response:
        """Return all secret stores."""
        return Response(
            document={"secret_stores": [_document(call, store) for store in await _repository(call).list_all()]}
        )


class GlobalDefaultController(CollectionController):
    """``/v1/secret-stores/global-default``"""

    name = "Global default secret store retrieval"

    @Operation(
        name, "secretstores:get_global_default", title="Show the default secret store", response=responses.SECRET_STORE
    )
    async def on_get(self, call: Call, _: None) -> Response:
        """Return the store of projects that have no preferred store."""
        (store,) = [store for store in await _repository(call).list_all() if store.global_default]
        return Response(document=_document(call, store))


class PreferredStoreController(CollectionController):
    """``/v1/secret-stores/preferred``"""

    name = "Preferred secret store retrieval"

    @Operation(
        name,
        "secretstores:get_preferred",
        title="Show the preferred secret store of the caller's project",
        response=responses.SECRET_STORE,
    )
    async def on_get(self, call: Call, _: None) -> Response:
        """Return the preferred store of the caller's project."""
        store = await _repository(call).preferred(call.project_id)
        if store is None:
            raise NotFound("Not Found. No preferred secret store defined for this project.")
        return Response(document=_document(call, store))


class SecretStoreResource(Controller[SecretStore]):
    """Base class for the resources at and below a secret store's path."""

    async def resolve(self, call: Call) -> ResolvedResource[SecretStore]:
        """Find the store.

        :raises NotFound: there is no such store, or only one store is configured.
        """
        store = await _repository(call).get(require_uuid4(call.ids["store_id"], "secret store"))
        if store is None:
            raise NotFound("Not Found. Secret store not found.")
        return ResolvedResource(store)


class SecretStoreController(SecretStoreResource):
    """``/v1/secret-stores/{id}``"""

    name = "Secret store retrieval"

    @Operation(name, "secretstore:get", title="Show a secret store", response=responses.SECRET_STORE)
    async def on_get(self, call: Call, store: SecretStore) -> Response:
        """Return the store."""
        return Response(document=_document(call, store))


class StorePreferenceController(SecretStoreResource):
    """``/v1/secret-stores/{id}/preferred``"""

    name = "Setting preferred secret store"

    @Operation(
        name, "secretstore_preferred:post", title="Prefer a secret store for the caller's project", success=(204,)
    )
    async def on_post(self, call: Call, store: SecretStore) -> Response:
        """Make the store the preferred store of the caller's project."""
        await _repository(call).prefer(call.project_id, store.id)
        return Response(204)

    @Operation(
        "Removing preferred secret store",
        "secretstore_preferred:delete",
        title="Remove the preference of the caller's project",
        success=(204,),
    )
    async def on_delete(self, call: Call, store: SecretStore) -> Response:
        """Remove the preference of the caller's project, whichever store it names."""
        await _repository(call).forget_preference(call.project_id)
        return Response(204)
