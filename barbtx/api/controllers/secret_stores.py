"""Secret stores: which there are, while there is only the one. Source: the contract, section 12."""

from __future__ import annotations

from barbtx.api.answers import Answer
from barbtx.api.dispatch import Call, Controller, Found, operation
from barbtx.errors import NotFound


def _switched_off() -> NotFound:
    return NotFound("Not Found. Multiple backends support is not enabled in service configuration.")


class SecretStoresController(Controller):
    """``/v1/secret-stores``"""

    name = "Secret store(s) retrieval"

    @operation(name, "secretstores:get")
    async def on_get(self, call: Call, found: Found) -> Answer:
        raise _switched_off()


class GlobalDefaultController(Controller):
    """``/v1/secret-stores/global-default``"""

    name = "Global default secret store retrieval"

    @operation(name, "secretstores:get_global_default")
    async def on_get(self, call: Call, found: Found) -> Answer:
        raise _switched_off()


class PreferredStoreController(Controller):
    """``/v1/secret-stores/preferred``"""

    name = "Preferred secret store retrieval"

    @operation(name, "secretstores:get_preferred")
    async def on_get(self, call: Call, found: Found) -> Answer:
        raise _switched_off()


class SecretStoreController(Controller):
    """``/v1/secret-stores/{id}`` and what is below it: there is none."""

    name = "Secret store retrieval"

    async def find(self, call: Call) -> Found:
        raise _switched_off()
