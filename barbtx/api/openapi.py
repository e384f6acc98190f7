"""The OpenAPI 3.1 document of the service, generated from its routes, operations and schemas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from barbtx import __version__
from barbtx.api import json_documents
from barbtx.api.dispatch import Controller
from barbtx.api.http import Request
from barbtx.api.leaf import LeafResource
from barbtx.api.negotiation import JSON
from barbtx.api.operation import Operation, RawBody, UntypedBody
from barbtx.api.responses import Response, write_error, write_response
from barbtx.api.root import Builder
from barbtx.api.routes import ROOT_ROUTES, V1_ROUTES
from barbtx.api.schemas.parameters import PATH_PARAMETERS, QUERY_PARAMETERS
from barbtx.api.schemas.responses import ERROR_BODY
from barbtx.errors import MethodNotAllowed, NotFound, to_error_response

_PLACEHOLDER = re.compile(r"<(\w+)>")
_METHODS = ("get", "post", "put", "patch", "delete")
_TEXT = {"type": "string"}


def describe_service() -> dict[str, Any]:
    """Return the OpenAPI document."""
    paths = {
        _PLACEHOLDER.sub(r"{\1}", route): _describe_path(route, controller)
        for route, controller in {**ROOT_ROUTES, **V1_ROUTES}.items()
        # Paths that continue with anything exist for compatibility and are not documented.
        if "<path:" not in route
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "barbtx: OpenStack Key Manager API", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": ERROR_BODY}},
    }


def _describe_path(route: str, controller: type[Controller[Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if parameters := [
        {"name": name, "in": "path", "required": True, "description": PATH_PARAMETERS[name], "schema": _TEXT}
        for name in _PLACEHOLDER.findall(route)
    ]:
        described["parameters"] = parameters
    for method in _METHODS:
        operation = getattr(controller, f"on_{method}", None)
        if isinstance(operation, Operation):
            described[method] = _describe_operation(operation, method, route)
    return described


def _describe_operation(operation: Operation, method: str, route: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.title,
        "operationId": f"{method} {route}",
        "responses": _describe_responses(operation),
    }
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "query", "description": QUERY_PARAMETERS[name], "schema": _TEXT}
        for name in operation.query
    ]
    if operation.supports_idempotency:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Identifies the request: if it is sent again with the same key and body, the response "
                "is the first one, and nothing is created.",
                "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            }
        )
    if parameters:
        described["parameters"] = parameters
    body = operation.body
    if isinstance(body, RawBody):
        described["requestBody"] = {"required": True, "content": {kind: {} for kind in body.media_types}}
    elif body is not None:
        schema = body.schema.with_parts if isinstance(body, UntypedBody) else body.with_parts
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return described


def _describe_responses(operation: Operation) -> dict[str, Any]:
    error = {"schema": {"$ref": "#/components/schemas/Error"}}
    rejected: dict[str, Any] = {
        "description": "The request is rejected; the description names the reason and how to correct the request.",
        # The pipeline's errors are plain text unless the client accepts JSON.
        "content": {JSON: error, "text/plain": {"schema": _TEXT}},
    }
    described: dict[str, Any] = {}
    for status in operation.success:
        success: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if status not in (204, 302):
            content: dict[str, Any] = {kind: {} for kind in operation.media_types}
            if operation.response is not None:
                content[JSON] = {"schema": operation.response}
            success["content"] = content
        described[str(status)] = success
    unavailable = {
        "description": "A dependency of the service is unavailable; nothing was changed.",
        "content": {JSON: error},
    }
    return {**described, "4XX": rejected, "503": unavailable}


class OpenAPIResource(LeafResource):
    """``/openapi.json``"""

    def __init__(self) -> None:
        self._document = json_documents.write(describe_service()).encode()

    def render(self, request: Request) -> bytes:
        """Return the document, or an error for other methods and for paths below this one."""
        if len(request.postpath) > 1:
            return write_error(
                request, to_error_response(NotFound("There is nothing below /openapi.json."), "Description")
            )
        if request.method not in (b"GET", b"HEAD"):
            return write_error(request, to_error_response(MethodNotAllowed(("GET", "HEAD")), "Description"))
        return write_response(request, Response(content=self._document))


def app_factory(global_conf: Mapping[str, str]) -> Builder:
    """Make the builder of the OpenAPI document's resource. A PasteDeploy application factory."""
    return lambda context: OpenAPIResource()
