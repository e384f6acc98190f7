"""Which API this is. Source: the contract, section 2."""

from __future__ import annotations

from typing import Any

from barbtx.api.dispatch import Call, Controller, ResolvedResource, operation
from barbtx.api.middleware.microversion import MAXIMUM, MINIMUM, version_text
from barbtx.api.negotiation import accepts_version_document, media_type
from barbtx.api.responses import Response
from barbtx.api.schemas import responses

# The release of the reference service whose behaviour this is.
_BUILD = "23.0.0"


def _version(call: Call) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": "v1",
        "links": [
            {"rel": "self", "href": f"{call.base}/v1/"},
            {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
        ],
    }
    if call.microversion == MINIMUM:
        kind = "application/vnd.openstack.key-manager-v1+json"
        return document | {"status": "stable", "media-types": [{"base": "application/json", "type": kind}]}
    return document | {"status": "CURRENT", "min_version": version_text(MINIMUM), "max_version": version_text(MAXIMUM)}


class VersionsController(Controller):
    """``/``"""

    name = "Versions retrieval"

    @operation(
        name,
        None,
        accepts=accepts_version_document,
        success=(200, 300, 302),
        answer=responses.VERSIONS,
        query=("build",),
    )
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        if "build" in call.query:
            return Response(document={"build": _BUILD})
        if media_type(call.header("accept") or "") == "application/json-home":
            return Response(302, headers={"Location": f"{call.base}/v1/"})
        version = _version(call)
        return Response(300, {"versions": {"values": [version]} if call.microversion == MINIMUM else [version]})


class VersionController(Controller):
    """``/v1``"""

    name = "Version retrieval"

    @operation(name, None, accepts=accepts_version_document, answer=responses.thing({"version": responses.VERSION}))
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        return Response(document={"version": _version(call)})
