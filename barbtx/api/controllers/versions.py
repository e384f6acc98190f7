"""The version documents of the API (contract, section 2)."""

from __future__ import annotations

from typing import Any

from barbtx.api.call import Call
from barbtx.api.dispatch import CollectionController
from barbtx.api.middleware.microversion import MAXIMUM, MINIMUM, version_text
from barbtx.api.negotiation import accepts_version_document, media_type
from barbtx.api.operation import Operation
from barbtx.api.responses import Response
from barbtx.api.schemas import responses

# The release of the reference implementation that barbtx is compatible with.
_BUILD = "23.0.0"


def _version_document(call: Call) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": "v1",
        "links": [
            {"rel": "self", "href": call.collection_ref("")},
            {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
        ],
    }
    if call.microversion == MINIMUM:
        kind = "application/vnd.openstack.key-manager-v1+json"
        return document | {"status": "stable", "media-types": [{"base": "application/json", "type": kind}]}
    return document | {"status": "CURRENT", "min_version": version_text(MINIMUM), "max_version": version_text(MAXIMUM)}


class VersionsController(CollectionController):
    """``/``"""

    name = "Versions retrieval"

    @Operation(
        name,
        None,
        title="List the versions of the API",
        accepts=accepts_version_document,
        success=(200, 300, 302),
        response=responses.VERSIONS,
        query=("build",),
    )
    async def on_get(self, call: Call, _: None) -> Response:
        """Return the versions of the API, the service's release, or the location for JSON Home."""
        if "build" in call.query:
            return Response(document={"build": _BUILD})
        if media_type(call.header("accept") or "") == "application/json-home":
            return Response(302, headers={"Location": call.collection_ref("")})
        version = _version_document(call)
        return Response(300, {"versions": {"values": [version]} if call.microversion == MINIMUM else [version]})


class VersionController(CollectionController):
    """``/v1``"""

    name = "Version retrieval"

    @Operation(
        name,
        None,
        title="Show the version of the API",
        accepts=accepts_version_document,
        response=responses.strict_object({"version": responses.VERSION}),
    )
    async def on_get(self, call: Call, _: None) -> Response:
        """Return the version of the API."""
        return Response(document={"version": _version_document(call)})
